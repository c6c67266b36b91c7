"""Networks that act within a diffusion model's passes: DiffSynth's block-wise ControlNet of Qwen-Image, USO's
projector of SigLIP's layers for Flux.

Sources: DiffSynth-Studio's Qwen-Image ControlNets; USO, arXiv:2508.18966. Names as in their files.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.components import Weights
from backend.errors import BadFile, UnsupportedOption
from backend.models.adapters import adapt, applied
from backend.models.families.sequence import PATCH, padded, to_tokens
from backend.models.header import Header
from backend.models.hostcopy import Form, HostCopies
from backend.models.weights import fill, open_file
from backend.values import frozen

_EPS = 1e-6
_EMBEDDER = "feature_embedder."
_LEVELS = ("high", "mid", "low")


@frozen
class BlockControl:
    """Behind each block it adds what a small network makes of the picture's tokens and of the hint's.

    shown: channels of the hint's latents, with those of a mask behind them.
    """

    width: int
    depth: int
    shown: int

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return _BlockControl(self)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield name, weight


@frozen
class StyleProjector:
    """Three of SigLIP's layers become tokens before a prompt's.

    tokens, into: number and width of SigLIP's; made: tokens of each layer; out: their width.
    """

    tokens: int
    into: int
    made: int
    out: int

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return _StyleProjector(self)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name.startswith(_EMBEDDER):
            yield name.removeprefix(_EMBEDDER), weight


PatchLayout: TypeAlias = BlockControl | StyleProjector
T = TypeVar("T", BlockControl, StyleProjector)


@frozen(eq=False)
class PatchModel:
    """nbytes: of its weights."""

    layout: PatchLayout
    module: nn.Module
    nbytes: int
    device: torch.device
    dtype: torch.dtype

    @property
    def shown(self) -> int:
        """Channels of a hint's latents. Raises: UnsupportedOption where it takes none."""
        return self._of(BlockControl, "a ControlNet of Qwen-Image's blocks").shown

    def hint(self, latent: Tensor) -> Tensor:
        """A hint's latents [B, shown, h, w] -> the tokens that the blocks are shown, [B, S, width]."""
        with torch.no_grad():
            shown: Tensor = self.module.img_in(to_tokens(padded(latent.to(self.device, self.dtype))))  # type: ignore[operator]
        return shown

    def added(self, number: int, hidden: Tensor, hint: Tensor) -> Tensor | None:
        """What is added behind block `number` to the picture's tokens [R, S, width]; None: nothing."""
        layout = self._of(BlockControl, "a ControlNet of Qwen-Image's blocks")
        if number >= layout.depth:
            return None
        if hidden.shape[1:] != hint.shape[1:]:
            value = f"tokens of shape {list(hint.shape[1:])} where the model has {list(hidden.shape[1:])}"
            raise UnsupportedOption("model_patch", value, "Use a model patch that was made for this model.")
        blocks = self.module.controlnet_blocks
        with applied({}):  # the pass's own layers have LoRAs, these have none
            made: Tensor = blocks[number](hidden.to(self.dtype), hint)  # type: ignore[index,operator]
        return made.to(hidden)

    def style(self, low: Tensor, mid: Tensor, high: Tensor) -> Tensor:
        """SigLIP's hidden states [B, T, C] of layers far from the end, and near it -> tokens, [B, N, out].

        Raises: UnsupportedOption where the encoder, or this network, is of another kind.
        """
        layout = self._of(StyleProjector, "USO's projector")
        if high.shape[1:] != (layout.tokens, layout.into):
            value = f"hidden states of shape {list(high.shape[1:])}"
            remedy = f"Use the image encoder with {layout.tokens} tokens of {layout.into} channels."
            raise UnsupportedOption("clip_vision_output", value, remedy)
        with torch.no_grad():
            states = [value.to(self.device, self.dtype) for value in (high, mid, low)]
            made: Tensor = self.module(states)
        return made

    def _of(self, kind: type[T], wanted: str) -> T:
        if isinstance(self.layout, kind):
            return self.layout
        remedy = f"Load {wanted} from models/model_patches."
        raise UnsupportedOption("model_patch", f"a {type(self.layout).__name__}", remedy)


def detect(header: Header) -> PatchLayout | None:
    """The layout of a model patch; None for any other file."""
    if "controlnet_blocks.0.y_rms.weight" in header and "img_in.weight" in header:
        width, patched = header.shape("img_in.weight")
        return BlockControl(width, header.count("controlnet_blocks.{}."), patched // PATCH**2)
    if f"{_EMBEDDER}mid_layer_norm.bias" in header:
        made, tokens = header.shape(f"{_EMBEDDER}high_embedding_linear.0.weight")
        out, into = header.shape(f"{_EMBEDDER}high_projection.weight")
        return StyleProjector(tokens, into, made, out)
    return None


def load_model_patch(
    weights: Weights, device: torch.device, dtype: torch.dtype, copies: HostCopies | None = None
) -> PatchModel:
    """A model patch of one file. Raises: BadFile where it holds none of a known kind."""
    file = open_file(weights.files[0])
    layout = detect(file.header)
    if layout is None:
        remedy = "Use DiffSynth's ControlNets of Qwen-Image, or USO's projector, from models/model_patches."
        raise BadFile(weights.files[0].path, "no model patch of a known kind is in it", remedy)
    module = layout.build()
    adapt(module)
    nbytes = fill(module, file, layout.convert, device, Form(dtype), copies.of(weights) if copies else None)
    return PatchModel(layout, module, nbytes, device, dtype)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.x_rms, self.y_rms = nn.RMSNorm(width, eps=_EPS), nn.RMSNorm(width, eps=_EPS)
        self.input_proj, self.output_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor, hint: Tensor) -> Tensor:
        out: Tensor = self.output_proj(F.gelu(self.input_proj(self.x_rms(hidden) + self.y_rms(hint))))
        return out


class _BlockControl(nn.Module):
    def __init__(self, layout: BlockControl) -> None:
        super().__init__()
        self.img_in = nn.Linear(layout.shown * PATCH**2, layout.width)
        self.controlnet_blocks = nn.ModuleList(_Block(layout.width) for _ in range(layout.depth))


class _StyleProjector(nn.Module):
    def __init__(self, layout: StyleProjector) -> None:
        super().__init__()
        for level in _LEVELS:
            mixed = nn.Sequential(nn.Linear(layout.tokens, layout.made), nn.SiLU())
            self.add_module(f"{level}_embedding_linear", mixed)
            self.add_module(f"{level}_layer_norm", nn.LayerNorm(layout.into))
            self.add_module(f"{level}_projection", nn.Linear(layout.into, layout.out))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """states: [B, T, C] each, in the order of the levels."""
        return torch.cat([self._made(n, x) for n, x in zip(_LEVELS, states, strict=True)], dim=1)

    def _made(self, level: str, states: Tensor) -> Tensor:
        mixed = self.get_submodule(f"{level}_embedding_linear")(states.transpose(1, 2)).transpose(1, 2)
        normed = self.get_submodule(f"{level}_layer_norm")(mixed)
        made: Tensor = self.get_submodule(f"{level}_projection")(normed)
        return made
