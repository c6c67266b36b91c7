import gc
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backend.errors import BadFile
from backend.models.changes import Change, changed
from backend.models.denoiser import Denoiser, load_denoiser
from backend.models.families.unet_names import parts, to_original
from backend.models.lora import Patch, Target, load_lora, own_weight, sites_of
from backend.models.merged import merged as merged_weight
from backend.models.merged import sites_changed
from backend.models.text import Request, TextEncoder, Working, encode_text, load_text_encoder
from tests.backend.models.conftest import CPU, file_of, relative, weights_of
from tests.parity.reference import Reference

SITE = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"  # a matrix, 32 x 32, in the tiny model
)
CONV = "mid_block.resnets.0.conv1"  # 64 x 64 x 3 x 3


def a_denoiser(path: Path) -> Denoiser:
    return load_denoiser(weights_of(path, "denoiser"), CPU, torch.float32)


def a_text_encoder(path: Path) -> TextEncoder:
    return load_text_encoder(weights_of(path, "text_encoder"), CPU, torch.float32)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.2


def a_file(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    path = folder / f"lora-{len(list(folder.iterdir()))}.safetensors"
    save_file(dict(tensors), path)
    return path


def some_rows(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return noise(rows, 4, 8, 8) * 5, torch.linspace(10, 900, rows), noise(rows, 77, 64) * 5


def merged(path: Path, stack: tuple[Patch, ...]) -> Denoiser:
    """The same model with the changes in its weights: what rows with LoRAs must equal."""
    denoiser = a_denoiser(path)
    for site in sites_changed(stack):
        layer = denoiser.module.get_submodule(site)
        assert isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        made = merged_weight(own_weight(denoiser.module, site), stack, site)
        layer.weight.data = made.weight
        if made.bias is not None and layer.bias is not None:
            layer.bias.data = made.bias
    return denoiser


def at_one(change: Change, *shape: int) -> Tensor:
    """What a change adds to a weight of zeros at strength 1."""
    return changed(torch.zeros(*shape), change, 1.0)


KOHYA, PAIR = SITE.replace(".", "_"), {"up": noise(32, 4), "down": noise(4, 32)}


@pytest.mark.parametrize(
    ("up", "down"),
    [
        (f"lora_unet_{KOHYA}.lora_up.weight", f"lora_unet_{KOHYA}.lora_down.weight"),
        (
            "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0.lora_up.weight",
            "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
        ),
        (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight",
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
        ),
        (f"unet.{SITE}.lora.up.weight", f"unet.{SITE}.lora.down.weight"),
        (f"unet.{SITE}.lora_B.weight", f"unet.{SITE}.lora_A.weight"),
        (
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.lora_B.weight",
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        ),
    ],
)
def test_a_layer_is_known_under_every_dialects_name(tiny: Path, tmp_path: Path, up: str, down: str):
    path = a_file(tmp_path, {up: PAIR["up"], down: PAIR["down"]})
    deltas = load_lora(file_of(path), a_denoiser(tiny)).changes
    assert list(deltas) == [SITE]
    assert torch.allclose(at_one(deltas[SITE], 32, 32), PAIR["up"] @ PAIR["down"])


def everything(folder: Path) -> Path:
    """A file with a matrix, a convolution with a middle, a plain difference, and a bias."""
    conv, shortcut = (f"lora_unet_{name.replace('.', '_')}" for name in (CONV, "conv_in"))
    return a_file(
        folder,
        {
            f"lora_unet_{KOHYA}.lora_up.weight": PAIR["up"],
            f"lora_unet_{KOHYA}.lora_down.weight": PAIR["down"],
            f"lora_unet_{KOHYA}.alpha": torch.tensor(2.0),
            f"{conv}.lora_up.weight": noise(64, 4, 1, 1),
            f"{conv}.lora_mid.weight": noise(4, 4, 3, 3),
            f"{conv}.lora_down.weight": noise(4, 64, 1, 1),
            f"{shortcut}.diff": noise(32, 4, 3, 3),
            f"{shortcut}.diff_b": noise(32),
        },
    )


def convolution(folder: Path) -> Path:
    name = f"lora_unet_{CONV.replace('.', '_')}"
    return a_file(
        folder, {f"{name}.lora_up.weight": noise(64, 2, 1, 1), f"{name}.lora_down.weight": noise(2, 64, 3, 3)}
    )


def test_each_row_has_its_own_loras_and_equals_a_model_with_them_merged(tiny: Path, tmp_path: Path):
    denoiser = a_denoiser(tiny)
    one = load_lora(file_of(everything(tmp_path)), denoiser)
    two = load_lora(file_of(convolution(tmp_path)), denoiser)
    stacks = [(Patch(one, 0.8),), (), (Patch(one, -0.5), Patch(two, 0.7)), (Patch(two, 1.0), Patch(two, 0.5))]
    x, timesteps, tokens = some_rows(4)
    together = denoiser.forward(x, timesteps, tokens, adapters=stacks)
    plain = denoiser.forward(x, timesteps, tokens)
    for row, stack in enumerate(stacks):
        part = slice(row, row + 1)
        alone = merged(tiny, stack).forward(x[part], timesteps[part], tokens[part])
        assert relative(together[part], alone) < 1e-5
        assert (relative(together[part], plain[part]) > 1e-3) == bool(stack)


DIALECTS: dict[str, Callable[[str, int, int, tuple[int, ...]], dict[str, Tensor]]] = {
    "loha": lambda name, out, wide, kernel: {
        f"{name}.hada_w1_a": noise(out, 2),
        f"{name}.hada_w1_b": noise(2, wide * math.prod(kernel)),
        f"{name}.hada_w2_a": noise(out, 3),
        f"{name}.hada_w2_b": noise(3, wide * math.prod(kernel)),
        f"{name}.alpha": torch.tensor(1.5),
    },
    "lokr": lambda name, out, wide, kernel: {
        f"{name}.lokr_w1": noise(4, 2),
        f"{name}.lokr_w2": noise(out // 4, wide // 2, *kernel),
    },
    "dora": lambda name, out, wide, kernel: {
        f"{name}.lora_up.weight": noise(out, 2, *(1 for _ in kernel)),
        f"{name}.lora_down.weight": noise(2, wide, *kernel),
        f"{name}.dora_scale": noise(out, 1, *(1 for _ in kernel)).abs() * 9 + 1,
    },
    "oft": lambda name, out, wide, kernel: {f"{name}.oft_blocks": noise(4, out // 4, out // 4)},
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_rows_of_every_dialect_equal_models_with_it_merged(tiny: Path, tmp_path: Path, dialect: str):
    denoiser, make = a_denoiser(tiny), DIALECTS[dialect]
    conv = f"lora_unet_{CONV.replace('.', '_')}"
    tensors = make(f"lora_unet_{KOHYA}", 32, 32, ()) | make(conv, 64, 64, (3, 3))
    lora = load_lora(file_of(a_file(tmp_path, tensors)), denoiser)
    other = load_lora(file_of(everything(tmp_path)), denoiser)
    stacks = [(), (Patch(lora, 0.8),), (Patch(other, 0.5), Patch(lora, 1.0)), (Patch(lora, 0.8),)]
    x, timesteps, tokens = some_rows(4)
    together = denoiser.forward(x, timesteps, tokens, adapters=stacks)
    assert set(lora.changes) == {SITE, CONV}
    for row, stack in enumerate(stacks):
        part = slice(row, row + 1)
        alone = merged(tiny, stack).forward(x[part], timesteps[part], tokens[part])
        assert relative(together[part], alone) < 1e-5


def test_a_stack_that_runs_on_gets_a_copy_that_goes_with_its_lora(tiny: Path, tmp_path: Path):
    denoiser = a_denoiser(tiny)
    lora = load_lora(file_of(convolution(tmp_path)), denoiser)
    before, rows = denoiser.nbytes, some_rows(1)
    first = denoiser.forward(*rows, adapters=[(Patch(lora, 0.5),)])
    assert denoiser.nbytes == before
    for _ in range(4):
        last = denoiser.forward(*rows, adapters=[(Patch(lora, 0.5),)])
    assert denoiser.nbytes == before + 64 * 64 * 9 * 4
    assert relative(last, first) < 1e-5
    del lora
    gc.collect()
    assert denoiser.nbytes == before


def test_another_strength_or_lora_loads_and_edits_nothing(tiny: Path, tmp_path: Path):
    denoiser = a_denoiser(tiny)
    one, two = (load_lora(file_of(make(tmp_path)), denoiser) for make in (everything, convolution))
    tiny.rename(moved := tiny.with_name("moved.safetensors"))
    try:
        base = {name: (value.data_ptr(), value.clone()) for name, value in denoiser.module.named_parameters()}
        rows = some_rows(2)
        for patch in (Patch(one, 0.8), Patch(one, 0.3), Patch(two, 1.0), Patch(two, -1.0), Patch(one, 0.8)):
            for _ in range(3):
                denoiser.forward(*rows, adapters=[(patch,)] * 2)
    finally:
        moved.rename(tiny)
    for name, value in denoiser.module.named_parameters():
        assert value.data_ptr() == base[name][0]
        assert torch.equal(value, base[name][1])


def test_the_base_model_is_untouched(tiny: Path, tmp_path: Path):
    denoiser = a_denoiser(tiny)
    before = denoiser.forward(*some_rows(1))
    patch = Patch(load_lora(file_of(everything(tmp_path)), denoiser), 1.0)
    denoiser.forward(*some_rows(1), adapters=[(patch,)])
    assert torch.equal(denoiser.forward(*some_rows(1)), before)


def test_alpha_over_rank_scales_the_change(tiny: Path, tmp_path: Path):
    change = load_lora(file_of(everything(tmp_path)), a_denoiser(tiny)).changes[SITE]
    assert torch.allclose(at_one(change, 32, 32), PAIR["up"] @ PAIR["down"] / 2)


def test_strengths_that_cancel_make_no_side_path(tiny: Path, tmp_path: Path):
    denoiser = a_denoiser(tiny)
    lora = load_lora(file_of(convolution(tmp_path)), denoiser)
    stacks = [(Patch(lora, 0.5), Patch(lora, -0.5)), ()]
    assert sites_of(stacks, 1, CPU, denoiser.copies) == {}


def test_neighbouring_rows_with_one_lora_share_its_side_path(tiny: Path, tmp_path: Path):
    denoiser = a_denoiser(tiny)
    lora = load_lora(file_of(convolution(tmp_path)), denoiser)
    stacks = [(Patch(lora, 0.5),), (Patch(lora, 2.0),), (), (Patch(lora, 1.0),)]
    (site,) = sites_of(stacks, 1, CPU, denoiser.copies).values()
    assert site.others == ()
    got = [(path.rows, path.strengths.tolist()) for path in site.paths]
    assert got == [(slice(0, 2), [0.5, 2.0]), (slice(3, 4), [1.0])]


def test_text_encoders_have_loras_too(tiny: Path, tmp_path: Path):
    name = "lora_te_text_model_encoder_layers_1_mlp_fc1"
    path = a_file(
        tmp_path, {f"{name}.lora_up.weight": noise(256, 4), f"{name}.lora_down.weight": noise(4, 64)}
    )
    encoder = a_text_encoder(tiny)
    lora = load_lora(file_of(path), encoder)
    request = Request("a (cat:1.2)", lambda _: None)
    (plain,) = encode_text("sd15", [Working(encoder)], request)
    (patched,) = encode_text("sd15", [Working(encoder, (Patch(lora, 0.7),))], request)
    weight = encoder.module.get_parameter("text_model.encoder.layers.1.mlp.fc1.weight")
    weight.data = changed(weight, lora.changes["text_model.encoder.layers.1.mlp.fc1"], 0.7)
    (expected,) = encode_text("sd15", [Working(encoder)], request)
    assert relative(patched.tokens, expected.tokens) < 1e-5
    assert relative(patched.tokens, plain.tokens) > 1e-3


def test_a_file_for_another_model_is_logged_and_changes_nothing(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = a_file(
        tmp_path, {"lora_unet_elsewhere.lora_up.weight": noise(2, 2), "lora_te_x.lora_up.weight": noise(2, 2)}
    )
    assert load_lora(file_of(path), a_denoiser(tiny)).changes == {}
    assert "1 LoRA tensors not used (lora_unet_elsewhere.lora_up.weight); nothing in it fits" in caplog.text


def test_a_layer_of_another_size_is_logged_and_left_out(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    name = f"lora_unet_{KOHYA}"
    path = a_file(
        tmp_path, {f"{name}.lora_up.weight": noise(99, 4), f"{name}.lora_down.weight": noise(4, 99)}
    )
    assert load_lora(file_of(path), a_denoiser(tiny)).changes == {}
    assert f"{name} does not fit a layer of shape [32, 32]" in caplog.text


def test_half_a_pair_is_refused(tiny: Path, tmp_path: Path):
    path = a_file(tmp_path, {f"lora_unet_{KOHYA}.lora_up.weight": PAIR["up"]})
    with pytest.raises(BadFile, match=r"has no .*lora_down\.weight' beside it"):
        load_lora(file_of(path), a_denoiser(tiny))


def test_an_adapter_of_another_kind_is_refused_by_name(tiny: Path, tmp_path: Path):
    path = a_file(tmp_path, {f"lora_unet_{KOHYA}.oft_blocks": noise(2, 2, 2, 2)})
    with pytest.raises(BadFile, match=r"oft_blocks' is of an adapter that this server can't apply"):
        load_lora(file_of(path), a_denoiser(tiny))


@pytest.mark.parity
@pytest.mark.parametrize(("name", "strength"), [("lora_sd15", 0.8), ("lora_sd15_b", 1.0)])
def test_the_changed_weights_have_comfyuis_norms(
    reference: Reference, model: Callable[[str], Path], name: str, strength: float
):
    facts = json.loads((reference.folder / "facts" / "lora_norms.json").read_text())[f"{name}@{strength}"]
    denoiser, encoder = a_denoiser(model("sd15")), a_text_encoder(model("sd15"))
    table = parts(denoiser.layout.unet.levels)
    unet = {f"diffusion_model.{to_original(site, table)}.weight": site for site in denoiser.sites}
    text = {f"clip_l.transformer.{site}.weight": site for site in encoder.sites}
    targets: tuple[tuple[Target, str, dict[str, str]], ...] = (
        (denoiser, "model", unet),
        (encoder, "clip", text),
    )
    for target, part, sites in targets:
        changes = load_lora(file_of(model(name)), target).changes
        assert {sites[key] for key in facts[part]} == set(changes)
        for key, (norm, total) in facts[part].items():
            weight = own_weight(target.module, sites[key]).weight
            made = changed(weight, changes[sites[key]], strength).double()
            assert float(made.norm()) == pytest.approx(norm, rel=1e-5), key
            assert float(made.sum()) == pytest.approx(total, abs=1e-4 * norm), key
