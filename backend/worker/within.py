"""What networks add within a model's passes, made once for a run: hints encoded, styles projected."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import TypeAlias

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.models.additions import Guide, Prefix
from backend.models.conditioning import rows_of
from backend.models.families.wan import LATENT
from backend.models.model_patch import PatchModel
from backend.patches import BlockGuide, ModelPatch, StyleReference
from backend.references import PatchNetwork, Vae
from backend.resize import resize
from backend.values import frozen
from backend.worker.conditions import Networks, Sides

Dims: TypeAlias = tuple[int, int]
_LOW, _MID = -20, -11  # SigLIP's layers that a style is read from, beside the one before the last


@frozen(eq=False)
class Within:
    """guides: by a latent's rows and columns, for each size that conditions count in."""

    guides: Mapping[Dims, tuple[Guide, ...]] = field(default_factory=dict)
    prefix: Prefix | None = None

    def guides_of(self, x: Tensor) -> tuple[Guide, ...]:
        """Those of a call on x [B, C, ..., h, w]."""
        return self.guides[_dims(x.shape)] if self.guides else ()


NOTHING = Within()


def within(patches: Sequence[ModelPatch], sides: Sides, latent: Tensor, networks: Networks) -> Within:
    """For a run on `latent` [B, C, ..., h, w] under these conditions.

    Raises: UnsupportedOption where a patch can't act as its inputs are.
    """
    guides = [patch for patch in patches if isinstance(patch, BlockGuide)]
    styles = [patch for patch in patches if isinstance(patch, StyleReference)]
    sizes = {_dims(latent.shape)} if guides else set()
    if guides:
        boxes = (condition.region.box for side in sides.values() for condition in side)
        sizes |= {_dims(box.size) for box in boxes if box is not None}
    loaded = [_loaded(patch.network, networks) for patch in guides]
    made = {
        dims: tuple(_guide(patch, dims, net, networks) for patch, net in zip(guides, loaded, strict=True))
        for dims in sizes
    }
    return Within(made, _prefix([_style(patch, _loaded(patch.network, networks)) for patch in styles]))


def _dims(shape: Sequence[int]) -> Dims:
    return shape[-2], shape[-1]


def _loaded(network: object, networks: Networks) -> PatchModel:
    assert isinstance(network, PatchNetwork)
    return networks.patch(network)


def _guide(patch: BlockGuide, dims: Dims, network: PatchModel, networks: Networks) -> Guide:
    height, width = (side * LATENT.downscale for side in dims)
    pixels = resize(patch.image[..., :3].movedim(-1, 1), width, height, "area", "center").movedim(1, -1)
    assert isinstance(patch.vae, Vae)
    latent = networks.encode(patch.vae, pixels)
    if latent.ndim == 5:
        if latent.shape[2] != 1:
            value = f"a batch of {len(pixels)} pictures"
            raise UnsupportedOption("image", value, "Give one picture.")
        latent = latent[:, :, 0]
    if latent.shape[1] != LATENT.channels:
        value = f"a VAE of {latent.shape[1]} channels"
        raise UnsupportedOption("vae", value, "Connect Qwen-Image's VAE.")
    shown = LATENT.to_model(latent[:, :, None])[:, :, 0]
    channels = network.shown - LATENT.channels
    if channels > 0:
        shown = torch.cat([shown, _beside(patch, shown, channels)], dim=1)
    return Guide(network, network.hint(shown), patch.strength)


def _beside(patch: BlockGuide, shown: Tensor, channels: int) -> Tensor:
    """What is to be kept, in the channels behind a hint's: [B, channels, h, w]."""
    height, width = shown.shape[-2:]
    if patch.mask is None:
        return torch.ones(len(shown), channels, height, width)
    kept = 1.0 - patch.mask.reshape(-1, 1, *patch.mask.shape[-2:])
    kept = resize(kept, width, height, "bilinear", "none")
    return rows_of(kept, len(shown)).expand(-1, channels, -1, -1)


def _style(patch: StyleReference, network: PatchModel) -> Tensor:
    states = patch.vision.all_hidden_states
    if states is None or states.shape[1] < -_LOW:
        value = "of an image encoder other than SigLIP"
        remedy = "Encode the picture with sigclip_vision_patch14_384, which Flux's USO was trained with."
        raise UnsupportedOption("clip_vision_output", value, remedy)
    return network.style(states[:, _LOW], states[:, _MID], patch.vision.penultimate_hidden_states)


def _prefix(made: Sequence[Tensor]) -> Prefix | None:
    """The tokens of the last style stand first."""
    if not made:
        return None
    rows = max(map(len, made))
    return Prefix(torch.cat([rows_of(tokens, rows) for tokens in reversed(made)], dim=1))
