from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.components import ComponentKind, Contents
from backend.errors import BadFile
from backend.models.identity import identify
from tests.backend.models.conftest import file_of

VAE, UNET, TEXT = "first_stage_model.", "model.diffusion_model.", "cond_stage_model.transformer."


def contents(path: Path) -> Contents:
    return identify(file_of(path))


def saved(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file(dict(tensors), path)
    return path


def cut(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in load_file(path).items() if n.startswith(prefix)}


@pytest.mark.parametrize(("kind", "prefix"), [("vae", VAE), ("denoiser", UNET), ("text_encoder", TEXT)])
def test_a_component_is_the_same_in_a_checkpoint_and_in_a_file_of_its_own(
    tiny: Path, tmp_path: Path, kind: ComponentKind, prefix: str
):
    own = contents(saved(tmp_path / "own.safetensors", cut(tiny, prefix))).role(kind)
    within = contents(tiny).role(kind)
    assert own.digest == within.digest
    assert own.nbytes == within.nbytes
    assert (within.contained, own.contained) == (True, False)


def test_a_checkpoint_holds_three_different_components(tiny: Path):
    found = contents(tiny)
    assert [c.kind for c in found.components] == ["denoiser", "text_encoder", "vae"]
    assert len({c.digest for c in found.components} | {found.digest}) == 4
    assert sum(c.nbytes for c in found.components) <= found.nbytes < tiny.stat().st_size


def test_two_checkpoints_share_what_is_equal_in_them(tiny: Path, tmp_path: Path):
    changed = {n: t + 1 if n == UNET + "out.2.bias" else t for n, t in load_file(tiny).items()}
    one, other = contents(tiny), contents(saved(tmp_path / "finetuned.safetensors", changed))
    same = {c.kind for c, d in zip(one.components, other.components, strict=True) if c.digest == d.digest}
    assert same == {"text_encoder", "vae"}


def test_a_text_model_is_the_same_however_its_file_names_it(tiny: Path, tmp_path: Path):
    plain = cut(tiny, TEXT)
    bare = {f"{TEXT}{n.removeprefix('text_model.')}": t for n, t in plain.items()}
    ours = {f"clip_l.transformer.{n}": t for n, t in plain.items()}
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None], "logit_scale": torch.ones(())}
    found = [
        contents(saved(tmp_path / f"{number}.safetensors", tensors)).role("text_encoder").digest
        for number, tensors in enumerate((plain, bare, ours, {**plain, **ids}))
    ]
    assert set(found) == {contents(tiny).role("text_encoder").digest}


def test_what_the_model_predicts_is_part_of_what_it_is(tiny: Path, tmp_path: Path):
    marked = {**load_file(tiny), "v_pred": torch.zeros(0)}
    found = contents(saved(tmp_path / "v.safetensors", marked))
    assert found.role("denoiser").digest != contents(tiny).role("denoiser").digest
    assert found.role("vae").digest == contents(tiny).role("vae").digest
    own = saved(tmp_path / "own.safetensors", {**cut(tiny, UNET), "v_pred": torch.zeros(0)})
    assert contents(own).role("denoiser").digest == found.role("denoiser").digest


def test_a_pickle_and_safetensors_of_equal_tensors_are_one(tiny: Path, tmp_path: Path):
    path = tmp_path / "same.ckpt"
    torch.save({"state_dict": load_file(tiny), "step": 7}, path)
    assert contents(path) == contents(tiny)


KINDS = st.sampled_from([torch.float32, torch.float16, torch.uint8])
TENSORS = st.dictionaries(
    st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip(".") == name),
    st.tuples(KINDS, st.lists(st.integers(0, 3), max_size=3)),
    max_size=4,
)


@given(one=TENSORS, other=TENSORS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_identities_are_equal_where_names_types_and_shapes_are(tmp_path: Path, one: dict, other: dict):
    made = [{n: torch.zeros(shape, dtype=kind) for n, (kind, shape) in spec.items()} for spec in (one, other)]
    found = [contents(saved(tmp_path / f"{i}.safetensors", tensors)) for i, tensors in enumerate(made)]
    assert (found[0].digest == found[1].digest) == (one == other)


@pytest.mark.parametrize("threaded", [False, True])
def test_one_changed_byte_makes_another_component(tmp_path: Path, threaded: bool):
    count = 3 << 20 if threaded else 5
    value = torch.zeros(count, dtype=torch.uint8)
    first = contents(saved(tmp_path / "a.safetensors", {"w": value}))
    value[-1] = 1
    assert contents(saved(tmp_path / "b.safetensors", {"w": value})).digest != first.digest


def test_progress_counts_every_byte_once(tiny: Path):
    seen: list[int] = []
    assert identify(file_of(tiny), seen.append).nbytes == sum(seen)


def test_a_file_that_is_another_by_now_is_refused(tiny: Path, tmp_path: Path):
    path = saved(tmp_path / "a.safetensors", {"w": torch.ones(3)})
    with pytest.raises(BadFile, match="changed while it was in use"):
        identify(replace(file_of(path), mtime_ns=1))
    before = file_of(path)

    def overwrite(nbytes: int) -> None:
        saved(path, {"w": torch.ones(4)})

    with pytest.raises(BadFile, match="changed while it was in use"):
        identify(before, overwrite)


def test_a_damaged_file_is_named(tmp_path: Path):
    path = saved(tmp_path / "a.safetensors", {"w": torch.ones(300)})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadFile, match=r"a\.safetensors: the file is cut off"):
        contents(path)
    with pytest.raises(BadFile, match="No such file"):
        identify(replace(file_of(path), path=str(tmp_path / "gone.safetensors")))
