"""A pass of each family's network is what diffusers' own forward gives for the same inputs."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Additions, Alteration, Guide, Prefix, Row
from backend.models.conditioning import Given
from backend.models.denoiser import load_denoiser
from backend.models.family import Layout
from backend.models.style import styled
from backend.patches import Blocks
from backend.types import Cond
from tests.backend.models.conftest import CPU, relative, weights_of
from tests.backend.models.families.originals import (
    ALL,
    FILL,
    FLUX,
    QWEN,
    SD3,
    SD35,
    WAN,
    Z_IMAGE,
    loaded,
    original,
    state_of,
)

ROWS, HEIGHT, WIDTH, TOKENS = 2, 10, 12, 7


def network(layout: Layout) -> nn.Module:
    return loaded(layout, original(layout, state_of(layout)))


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(layout: Layout) -> nn.Module:
    """The network as diffusers builds it: with the tables that `build` leaves out."""
    import diffusers

    kinds = {"QwenImage": "QwenImageTransformer2DModel", "Wan": "WanTransformer3DModel"}
    config = dict(layout.build().config)
    module = getattr(diffusers, kinds[type(layout).__name__]).from_config(config)
    module.load_state_dict(state_of(layout), strict=True)
    return module.eval()


def tokens_of(x: Tensor) -> Tensor:
    rows, channels, height, width = x.shape
    split = x.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return split.reshape(rows, -1, channels * 4)


def flux_ids(height: int, width: int, index: int = 0) -> Tensor:
    ids = torch.zeros(height // 2, width // 2, 3)
    ids[..., 0] = index
    ids[..., 1] += torch.arange(height // 2)[:, None]
    ids[..., 2] += torch.arange(width // 2)[None]
    return ids.reshape(-1, 3)


@pytest.mark.parametrize("layout", [FLUX, FILL], ids=["dev", "fill"])
def test_flux(layout):
    module, x = network(layout), random(ROWS, 16, HEIGHT, WIDTH)
    text, time = random(ROWS, TOKENS, 24, seed=2), torch.tensor([0.3, 0.8])
    extra = {"pooled": random(ROWS, 20, seed=3), "guidance": torch.tensor([3.5, 1.0])}
    shown = x
    if layout is FILL:
        extra["concat"] = random(ROWS, 80, HEIGHT, WIDTH, seed=4)
        shown = torch.cat([x, extra["concat"]], dim=1)
    with torch.no_grad():
        ours = layout.call(module, x, time, text, extra)
        theirs = module(
            tokens_of(shown),
            text,
            extra["pooled"],
            time,
            flux_ids(HEIGHT, WIDTH),
            torch.zeros(TOKENS, 3),
            extra["guidance"],
            return_dict=False,
        )[0]
    assert relative(tokens_of(ours), theirs) < 1e-5


def test_flux_looks_more_or_less_at_a_biased_style():
    text, style = random(1, TOKENS - 3, 24, seed=2), random(1, 3, 24, seed=4)
    cond = styled(Cond(text, random(1, 20, seed=3)), style, 0.4, biased=True)
    given = FLUX.conditioning(Given(cond, "positive", torch.zeros(1, 16, HEIGHT, WIDTH)))
    module, x, time = network(FLUX), random(1, 16, HEIGHT, WIDTH), torch.tensor([0.3])
    bias = torch.zeros(TOKENS + HEIGHT * WIDTH // 4, TOKENS + HEIGHT * WIDTH // 4)
    bias[:4, 4:TOKENS] = bias[TOKENS:, 4:TOKENS] = math.log(0.4)
    with torch.no_grad():
        ours = FLUX.call(module, x, time, cond.tokens, given.plain)
        theirs = module(
            tokens_of(x),
            cond.tokens,
            cond.pooled,
            time,
            flux_ids(HEIGHT, WIDTH),
            torch.zeros(TOKENS, 3),
            given.plain["guidance"],
            joint_attention_kwargs={"attention_mask": bias},
            return_dict=False,
        )[0]
        plain = FLUX.call(
            module, x, time, cond.tokens, {**given.plain, "attention": torch.zeros(1, *bias.shape)}
        )
    assert relative(tokens_of(ours), theirs) < 1e-3  # the bias is a half's
    assert relative(ours, plain) > 1e-2
    with pytest.raises(UnsupportedOption, match="strength_type multiply"):
        FLUX.call(module, x, time, cond.tokens, {**given.plain, "reference.offset.0": x})


def test_flux_edits_from_references_beside_the_latent():
    module, x, picture = network(FLUX), random(1, 16, HEIGHT, WIDTH), random(1, 16, 6, 4, seed=5)
    text, time = random(1, TOKENS, 24, seed=2), torch.tensor([0.5])
    extra = {"pooled": random(1, 20, seed=3), "guidance": torch.tensor([2.5])}
    with torch.no_grad():
        ours = FLUX.call(module, x, time, text, {**extra, "reference.offset.0": picture})
        theirs = module(
            torch.cat([tokens_of(x), tokens_of(picture)], dim=1),
            text,
            extra["pooled"],
            time,
            torch.cat([flux_ids(HEIGHT, WIDTH), flux_ids(6, 4, index=1)]),
            torch.zeros(TOKENS, 3),
            extra["guidance"],
            return_dict=False,
        )[0]
    assert relative(tokens_of(ours), theirs[:, : HEIGHT * WIDTH // 4]) < 1e-5


@pytest.mark.parametrize("layout", [SD3, SD35], ids=["3", "3.5"])
def test_sd3(layout):
    module, x = network(layout), random(ROWS, 16, HEIGHT, WIDTH)
    text, time, pooled = (
        random(ROWS, TOKENS, 24, seed=2),
        torch.tensor([300.0, 800.0]),
        random(ROWS, 20, seed=3),
    )
    with torch.no_grad():
        ours = layout.call(module, x, time, text, {"pooled": pooled})
        theirs = module(x, text, pooled, time, return_dict=False)[0]
    assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("references", [0, 2])
def test_qwen_image(references: int):
    """Of even numbers of patches: with odd ones ComfyUI, whom we follow, counts places one further than
    diffusers.
    """
    height, width = 12, 16
    module, x = network(QWEN), random(ROWS, 16, 1, height, width)
    text, time = random(ROWS, TOKENS, 24, seed=2), torch.tensor([0.3, 0.8])
    pictures = [random(ROWS, 16, 1, 8, 4, seed=4 + n) for n in range(references)]
    extra = {f"reference.index.{n}": picture for n, picture in enumerate(pictures)}
    shapes = [(1, height // 2, width // 2), *[(1, 4, 2)] * references]
    with torch.no_grad():
        ours = QWEN.call(module, x, time, text, extra)
        shown = torch.cat([tokens_of(p[:, :, 0]) for p in (x, *pictures)], dim=1)
        theirs = whole(QWEN)(shown, text, None, time, [shapes] * ROWS, return_dict=False)[0]
    assert relative(tokens_of(ours[:, :, 0]), theirs[:, : height * width // 4]) < 1e-5


def test_z_image():
    module, x = network(Z_IMAGE), random(ROWS, 16, HEIGHT, WIDTH)
    text, time = random(ROWS, 37, 24, seed=2), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        ours = Z_IMAGE.call(module, x, time, text, {})
        theirs = module([row[:, None] for row in x], 1 - time, list(text)).sample
    assert relative(ours, -torch.stack(theirs)[:, :, 0]) < 1e-5


def test_wan():
    module, x = network(WAN), random(ROWS, 16, 3, HEIGHT, WIDTH)
    text, time = random(ROWS, TOKENS, 24, seed=2), torch.tensor([300.0, 800.0])
    with torch.no_grad():
        ours = WAN.call(module, x, time, text, {})
        theirs = whole(WAN)(x, time, text, return_dict=False)[0]
    assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("kind", ALL)
def test_weights_of_eighths_are_computed_with(kind: str, tmp_path):
    layout = ALL[kind]
    tensors = {name: value.contiguous() for name, value in original(layout, state_of(layout)).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = replace(weights_of(tmp_path / "model.safetensors", "denoiser"), narrow="fp8_e4m3fn")
    frames = () if layout.latent.dimensions == 2 else (1,)
    x, text = random(1, 16, *frames, 8, 8), random(1, TOKENS, 24, seed=2)
    time = torch.tensor([0.3]) * layout.prediction.timestep(torch.tensor(1.0))
    extra = {"pooled": random(1, 20, seed=3), "guidance": torch.tensor([3.5])}
    if layout.in_channels > 16:
        extra["concat"] = random(1, layout.in_channels - 16, 8, 8, seed=4)
    module = load_denoiser(weights, CPU, torch.float32).module
    if kind == "wan":  # ComfyUI keeps Wan's way in whole
        assert torch.equal(module.patch_embedding.weight, network(layout).patch_embedding.weight)
    with torch.no_grad():
        eighths = layout.call(module, x, time, text, extra)
        plain = layout.call(network(layout), x, time, text, extra)
    assert 1e-4 < relative(eighths, plain) < 0.2


@pytest.mark.parametrize("kind", ALL)
def test_rows_of_one_pass_are_what_they_are_alone(kind: str):
    """Latents of odd sizes too; each row with inputs of its own."""
    layout = ALL[kind]
    frames = () if layout.latent.dimensions == 2 else (1,)
    x, text = random(ROWS, 16, *frames, 7, 9), random(ROWS, TOKENS, 24, seed=2)
    scale = layout.prediction.timestep(torch.tensor(1.0))
    time = torch.tensor([0.3, 0.8]) * scale
    extra = {"pooled": random(ROWS, 20, seed=3), "guidance": torch.tensor([3.5, 1.0])}
    if layout.in_channels > 16:
        extra["concat"] = random(ROWS, layout.in_channels - 16, 7, 9, seed=4)
    module = network(layout)
    with torch.no_grad():
        together = layout.call(module, x, time, text, extra)
        for row in range(ROWS):
            one = slice(row, row + 1)
            alone = layout.call(module, x[one], time[one], text[one], {n: v[one] for n, v in extra.items()})
            assert relative(together[one], alone) < 1e-5
    assert together.shape == x.shape


def last_block(kind: str) -> int:
    names = state_of(ALL[kind])
    return max(int(n.split(".")[1]) for n in names if n.startswith(("transformer_blocks.", "blocks.")))


@pytest.mark.parametrize("last", [False, True], ids=["second", "last"])
@pytest.mark.parametrize("kind", ["flux", "sd3", "qwen_image", "wan"])
def test_a_row_without_a_block_is_what_it_is_where_all_rows_are(kind: str, last: bool):
    layout = ALL[kind]
    frames = () if layout.latent.dimensions == 2 else (1,)
    x, text = random(ROWS, 16, *frames, 8, 8), random(ROWS, TOKENS, 24, seed=2)
    time = torch.tensor([0.3, 0.8]) * layout.prediction.timestep(torch.tensor(1.0))
    extra = {"pooled": random(ROWS, 20, seed=3), "guidance": torch.tensor([3.5, 1.0])}
    without = Row(Alteration(without=Blocks(double=(last_block(kind) if last else 1,))))
    module = network(layout)
    with torch.no_grad():
        plain = layout.call(module, x, time, text, extra)
        mixed = layout.call(module, x, time, text, extra, Additions(None, (Row(), without)))
        all_of_them = layout.call(module, x, time, text, extra, Additions(None, (without, without)))
    assert relative(mixed[:1], plain[:1]) < 1e-6
    assert relative(mixed[1:], all_of_them[1:]) < 1e-6
    assert relative(mixed[1:], plain[1:]) > 1e-3


class Doubling:
    """A network behind blocks that adds the hint, and the picture's tokens times the block's number."""

    def added(self, number, hidden, hint):
        return None if number > 1 else hint + hidden * number


def test_qwens_rows_have_their_own_networks_behind_blocks_or_none():
    module, x = network(QWEN), random(3, 16, 1, HEIGHT, WIDTH)
    text, time = random(3, TOKENS, 24, seed=2), torch.tensor([0.3, 0.8, 0.5])
    hints, doubling = random(2, HEIGHT * WIDTH // 4, 64, seed=4), Doubling()
    one, two = Guide(doubling, hints[:1], 0.5), Guide(doubling, hints, -1.0)
    rows = (Row(), Row(Alteration(guides=(one, two)), 1), Row(Alteration(guides=(two,)), 0))
    with torch.no_grad():
        mixed = QWEN.call(module, x, time, text, {}, Additions(rows=rows))
        for i, row in enumerate(rows):
            at = slice(i, i + 1)
            alone = QWEN.call(module, x[at], time[at], text[at], {}, Additions(rows=(row,)))
            assert relative(mixed[at], alone) < 1e-5
        plain = QWEN.call(module, x, time, text, {})
    assert relative(mixed[:1], plain[:1]) < 1e-5
    assert min(relative(mixed[i], plain[i]) for i in (1, 2)) > 1e-2


def test_what_networks_add_is_for_the_latents_tokens_alone():
    module, x, picture = network(QWEN), random(1, 16, 1, HEIGHT, WIDTH), random(1, 16, 1, 6, 4, seed=5)
    hint = random(1, HEIGHT * WIDTH // 4, 64, seed=4)
    row = Row(Alteration(guides=(Guide(Doubling(), hint, 1.0),)))
    extra = {"reference.index.0": picture}
    with torch.no_grad():
        made = QWEN.call(module, x, torch.tensor([0.5]), random(1, TOKENS, 24), extra, Additions(rows=(row,)))
    assert made.shape == x.shape


def test_a_style_stands_before_fluxs_text_where_all_places_are_the_first():
    module, x = network(FLUX), random(ROWS, 16, HEIGHT, WIDTH)
    text, time = random(ROWS, TOKENS, 24, seed=2), torch.tensor([0.3, 0.8])
    extra = {"pooled": random(ROWS, 20, seed=3), "guidance": torch.tensor([3.5, 1.0])}
    with torch.no_grad():
        before = module.context_embedder(random(ROWS, 3, 24, seed=6))
        alteration = Alteration(prefix=Prefix(before))
        rows = tuple(Row(alteration, number) for number in range(ROWS))
        made = FLUX.call(module, x, time, text, extra, Additions(rows=rows))
        longer = torch.cat([random(ROWS, 3, 24, seed=6), text], dim=1)
        assert relative(made, FLUX.call(module, x, time, longer, extra)) < 1e-5
    assert alteration.layout != Alteration().layout  # such rows pass with others that have as many tokens


def test_a_style_for_another_model_is_refused():
    rows = (Row(Alteration(prefix=Prefix(torch.zeros(1, 3, 65)))),)
    extra = {"pooled": random(1, 20), "guidance": torch.tensor([3.5])}
    with pytest.raises(UnsupportedOption, match="made for this model"), torch.no_grad():
        FLUX.call(
            network(FLUX),
            random(1, 16, 4, 4),
            torch.tensor([0.5]),
            random(1, 7, 24),
            extra,
            Additions(rows=rows),
        )
