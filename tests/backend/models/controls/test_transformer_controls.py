"""ControlNets of transformers: what they make, and what it does to a pass, is what diffusers' own networks
give.
"""

import warnings
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Additions, Residuals
from backend.models.control_layout import ControlInputs, ControlLayout
from backend.models.controlnet import CONTROLS, ControlModel, load_controlnet
from backend.models.controls.flux_control import FluxControl
from backend.models.controls.qwen_control import QwenControl
from backend.models.controls.sd3_control import Sd3Control
from backend.models.families import flux, qwen_image, sd3
from backend.models.families.blocks import added_of, controlled
from backend.models.header import Header, TensorInfo
from tests.backend.models.conftest import CPU, relative, weights_of
from tests.backend.models.families.originals import FLUX, QWEN, SD3
from tests.backend.models.families.test_transformers import (
    TOKENS,
    flux_ids,
    network,
    random,
    tokens_of,
    whole,
)

ROWS, HEIGHT, WIDTH = 2, 12, 16
FLUX_UNION = FluxControl(flux.Flux(64, 1, 2, 32, 16, 24, 20, guided=True), 16, 3)
FLUX_PLAIN = FluxControl(flux.Flux(64, 1, 0, 32, 16, 24, 20, guided=False), 16, 0)
SD3_CONTROL = Sd3Control(sd3.Sd3(128, 2, 12, 24, 20, 16), 17)
QWEN_CONTROL = QwenControl(qwen_image.QwenImage(64, 1, 32, 16, 24), 16)
ALL: dict[str, ControlLayout] = {
    "union": FLUX_UNION,
    "flux": FLUX_PLAIN,
    "sd3": SD3_CONTROL,
    "qwen": QWEN_CONTROL,
}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator) * (0.1 if value.ndim > 1 else 0.3)
        for name, value in module.state_dict().items()
    }


def saved(layout: ControlLayout, folder: Path) -> tuple[ControlModel, dict[str, Tensor]]:
    """A control model from a file of its own, and what the file holds."""
    path, state = folder / "control.safetensors", state_of(layout.build())
    save_file(state, path)
    return load_controlnet(weights_of(path, "controlnet"), CPU, torch.float32), state


def inputs(*shape: int, channels: int = 16, kind: int | None = None) -> ControlInputs:
    return ControlInputs(
        random(ROWS, 16, *shape),
        random(ROWS, channels, *shape, seed=9),
        torch.tensor([0.3, 0.8]),
        random(ROWS, TOKENS, 24, seed=2),
        {"pooled": random(ROWS, 20, seed=3), "guidance": torch.tensor([3.5, 1.0])},
        kind,
    )


@pytest.mark.parametrize("kind", ALL)
def test_a_layout_is_read_back_from_its_own_file_which_is_of_no_other_kind(kind: str):
    shapes = {name: tuple(value.shape) for name, value in ALL[kind].build().state_dict().items()}
    header = Header("a", {name: TensorInfo("F32", shape) for name, shape in shapes.items()})
    found = [layout for detect in CONTROLS if (layout := detect(header)) is not None]
    assert found == [ALL[kind]]


@pytest.mark.parametrize("kind", [None, 2])
def test_flux(kind: int | None, tmp_path: Path):
    layout = FLUX_PLAIN if kind is None else FLUX_UNION
    control, state = saved(layout, tmp_path)
    given = inputs(HEIGHT, WIDTH, kind=kind)
    guided, own = layout.flux.guided, layout.flux
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of diffusers about its own parts
        original = diffusers.FluxControlNetModel(
            in_channels=64,
            num_layers=own.double,
            num_single_layers=own.single,
            attention_head_dim=own.head,
            num_attention_heads=own.width // own.head,
            joint_attention_dim=own.context,
            pooled_projection_dim=own.pooled,
            guidance_embeds=guided,
            axes_dims_rope=list(flux.rope_axes(own.head)),
            num_mode=layout.modes or None,
        )
    original.load_state_dict(state)
    made = control.forward(given)
    with torch.no_grad():
        doubles, singles = original(
            tokens_of(given.x),
            tokens_of(given.hint),
            None if kind is None else torch.full((ROWS, 1), kind),
            1.0,
            given.tokens,
            given.extra["pooled"],
            given.timesteps,
            flux_ids(HEIGHT, WIDTH),
            torch.zeros(TOKENS, 3),
            given.extra["guidance"] if guided else None,
            return_dict=False,
        )
    assert len(made.blocks) == 19  # each for several blocks of the whole model
    assert control.hint.latent is not None
    assert not control.hint.masked
    picked = [made.blocks[0], made.blocks[18], *(made.singles[i] for i in ((0, 37) if own.single else ()))]
    for ours, theirs in zip(picked, (*doubles, *doubles, *(singles or ())), strict=True):
        assert ours is not None
        assert relative(ours, theirs) < 1e-5


def test_sd3_with_a_mask_behind_its_hint(tmp_path: Path):
    control, _ = saved(SD3_CONTROL, tmp_path)
    given = inputs(HEIGHT, WIDTH, channels=17)
    made = control.forward(given)
    assert control.hint.masked
    with torch.no_grad():
        (theirs,) = control.module(
            given.x,
            given.hint,
            1.0,
            given.tokens,
            torch.zeros(ROWS, 20),  # the pooled text says nothing to it
            given.timesteps,
            return_dict=False,
        )
    assert len(made.blocks) == 1  # of the two blocks of a model so wide, the last is not added to
    for ours, wanted in zip(made.blocks, theirs, strict=False):
        assert ours is not None
        assert relative(ours, wanted) < 1e-5


def test_qwen_image(tmp_path: Path):
    control, state = saved(QWEN_CONTROL, tmp_path)
    given = inputs(1, HEIGHT, WIDTH)
    theirs = diffusers.QwenImageControlNetModel(
        in_channels=64,
        num_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=flux.rope_axes(32),
    )
    theirs.load_state_dict(state)
    made = control.forward(given)
    with torch.no_grad():
        wanted = theirs.eval()(
            tokens_of(given.x[:, :, 0]),
            tokens_of(given.hint[:, :, 0]),
            1.0,
            given.tokens,
            None,
            given.timesteps,
            [[(1, HEIGHT // 2, WIDTH // 2)]] * ROWS,
            return_dict=False,
        )
    assert len(made.blocks) == 60
    assert made.blocks[59] is not None
    assert relative(made.blocks[59], wanted[0]) < 1e-5


def test_fluxs_pass_takes_what_is_added_behind_its_blocks():
    module, x, text = network(FLUX), random(ROWS, 16, HEIGHT, WIDTH), random(ROWS, TOKENS, 24, seed=2)
    extra = {"pooled": random(ROWS, 20, seed=3), "guidance": torch.tensor([3.5, 1.0])}
    time = torch.tensor([0.3, 0.8])
    count = HEIGHT * WIDTH // 4
    double, singles = random(ROWS, count, 64, seed=5), [random(ROWS, count, 64, seed=6 + n) for n in range(2)]
    with torch.no_grad():
        ours = FLUX.call(
            module,
            x,
            time,
            text,
            extra,
            Additions(Residuals(blocks=(double,) * FLUX.double, singles=tuple(singles))),
        )
        theirs = module(
            tokens_of(x),
            text,
            extra["pooled"],
            time,
            flux_ids(HEIGHT, WIDTH),
            torch.zeros(TOKENS, 3),
            extra["guidance"],
            controlnet_block_samples=[double] * FLUX.double,
            controlnet_single_block_samples=singles,
            return_dict=False,
        )[0]
    assert relative(tokens_of(ours), theirs) < 1e-5


def test_qwens_pass_takes_what_is_added_behind_its_blocks():
    module, x, text = network(QWEN), random(ROWS, 16, 1, HEIGHT, WIDTH), random(ROWS, TOKENS, 24, seed=2)
    time, added = (
        torch.tensor([0.3, 0.8]),
        [random(ROWS, HEIGHT * WIDTH // 4, 64, seed=5 + n) for n in range(2)],
    )
    with torch.no_grad():
        ours = QWEN.call(module, x, time, text, {}, Additions(Residuals(blocks=tuple(added))))
        theirs = whole(QWEN)(
            tokens_of(x[:, :, 0]),
            text,
            None,
            time,
            [[(1, HEIGHT // 2, WIDTH // 2)]] * ROWS,
            controlnet_block_samples=added,
            return_dict=False,
        )[0]
    assert relative(tokens_of(ours[:, :, 0]), theirs) < 1e-5


def test_sd3s_pass_takes_what_is_added_behind_its_blocks():
    module, x, text = network(SD3), random(ROWS, 16, HEIGHT, WIDTH), random(ROWS, TOKENS, 24, seed=2)
    time, pooled = torch.tensor([300.0, 800.0]), {"pooled": random(ROWS, 20, seed=3)}
    value = random(ROWS, HEIGHT * WIDTH // 4, 128, seed=5)
    with torch.no_grad():
        first, second = (
            SD3.call(module, x, time, text, pooled, Additions(Residuals(blocks=blocks)))
            for blocks in ((value,), (None, value))
        )
        plain = SD3.call(module, x, time, text, pooled)
    assert relative(first, plain) > 1e-2
    assert relative(second, plain) > 1e-2
    assert relative(first, second) > 1e-2


def test_a_block_adds_to_the_picture_that_is_made_and_to_no_reference_behind_it():
    picture = torch.ones(1, 3, 4)
    added, singles = added_of(Additions(Residuals(blocks=(None, torch.ones(1, 2, 4)))))
    assert singles == ()
    assert torch.equal(controlled(picture, added, 0), picture)
    assert controlled(picture, added, 1)[0, :, 0].tolist() == [2.0, 2.0, 1.0]
    assert torch.equal(controlled(picture, added, 2), picture)


def test_additions_to_another_kind_of_network_are_refused():
    for additions in (Additions(Residuals(middle=torch.zeros(1, 4, 2, 2))), Additions(late=Residuals)):
        with pytest.raises(UnsupportedOption, match="made for this model"):
            added_of(additions)
    with pytest.raises(UnsupportedOption, match="made for this model"):
        controlled(torch.ones(1, 3, 4), (torch.zeros(1, 3, 8),), 0)
