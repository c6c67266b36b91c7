"""ControlNets of Flux, SD 3 and Qwen-Image against diffusers' own, which have the same blocks."""

from pathlib import Path

import pytest
import torch
from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel
from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel
from safetensors.torch import save_file
from torch import nn

from backend.errors import UnsupportedOption
from backend.models.additions import Additions, Residuals
from backend.models.control_layout import ControlInputs
from backend.models.controlnet import ControlModel, load_controlnet
from backend.models.families.blocks import added_of, controlled
from backend.models.families.sequence import grid, to_tokens
from tests.backend.models.conftest import CPU, relative, weights_of


def saved(module: nn.Module, path: Path) -> ControlModel:
    rng = torch.Generator().manual_seed(1)
    state = {n: torch.randn(v.shape, generator=rng) * 0.05 for n, v in module.state_dict().items()}
    module.load_state_dict(state)
    save_file(state, path)
    return load_controlnet(weights_of(path, "controlnet"), CPU, torch.float32)


def rows(channels: int, kind: int | None = None) -> ControlInputs:
    rng = torch.Generator().manual_seed(2)
    x, hint = torch.randn(2, 16, 8, 12, generator=rng), torch.randn(2, channels, 8, 12, generator=rng)
    extra = {"pooled": torch.randn(2, 48, generator=rng), "guidance": torch.tensor([3.5, 2.0])}
    tokens = torch.randn(2, 7, 96, generator=rng)
    return ControlInputs(x, hint, torch.tensor([0.3, 0.9]), tokens, extra, kind)


@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")  # of diffusers' own ControlNet
def test_fluxs_gives_what_diffusers_gives_for_every_block_of_the_model(tmp_path: Path):
    theirs = FluxControlNetModel(
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=128,
        num_attention_heads=2,
        joint_attention_dim=96,
        pooled_projection_dim=48,
        guidance_embeds=True,
    ).eval()
    control, given = saved(theirs, tmp_path / "a.safetensors"), rows(16)
    with torch.no_grad():
        blocks, singles = theirs(
            to_tokens(given.x),
            to_tokens(given.hint),
            encoder_hidden_states=given.tokens,
            pooled_projections=given.extra["pooled"],
            timestep=given.timesteps,
            img_ids=grid(4, 6).float(),
            txt_ids=torch.zeros(7, 3),
            guidance=given.extra["guidance"],
            return_dict=False,
        )
    out = control.forward(given)
    assert (len(out.blocks), len(out.singles)) == (19, 38)
    picked = [out.blocks[0], out.blocks[18], out.singles[37]]
    for made, wanted in zip(picked, [*blocks, *singles], strict=True):
        assert made is not None
        assert relative(made, wanted) < 1e-5
    assert control.hint.latent is not None
    assert not control.hint.masked


def test_sd3s_gives_what_diffusers_gives_and_is_told_of_the_mask(tmp_path: Path):
    theirs = SD3ControlNetModel(
        sample_size=32,
        num_layers=2,
        num_attention_heads=4,
        joint_attention_dim=96,
        caption_projection_dim=256,
        pooled_projection_dim=48,
        pos_embed_max_size=16,
        extra_conditioning_channels=1,
    ).eval()
    control, given = saved(theirs, tmp_path / "a.safetensors"), rows(17)
    with torch.no_grad():
        ((one, two),) = theirs(
            given.x,
            given.hint,
            encoder_hidden_states=given.tokens,
            pooled_projections=torch.zeros(2, 48),
            timestep=given.timesteps,
            return_dict=False,
        )
    out = control.forward(given).blocks  # of four blocks, the last is not added to
    assert [
        value is not None and relative(value, w) < 1e-5 for value, w in zip(out, [one, one, two], strict=True)
    ]
    assert control.hint.masked


def test_a_block_adds_to_the_picture_that_is_made_and_to_no_reference_behind_it():
    picture = torch.ones(1, 3, 4)
    added, singles = added_of(Additions(Residuals(blocks=(None, torch.ones(1, 2, 4)))))
    assert singles == ()
    assert torch.equal(controlled(picture, added, 0), picture)
    assert controlled(picture, added, 1)[0, :, 0].tolist() == [2.0, 2.0, 1.0]
    assert torch.equal(controlled(picture, added, 2), picture)


def test_additions_to_another_kind_of_network_are_refused():
    with pytest.raises(UnsupportedOption, match="made for this model"):
        added_of(Additions(Residuals(middle=torch.zeros(1, 4, 2, 2))))
    with pytest.raises(UnsupportedOption, match="made for this model"):
        controlled(torch.ones(1, 3, 4), (torch.zeros(1, 3, 8),), 0)
