"""Style models (Flux's Redux, T2I's style): an encoded picture -> tokens behind a prompt's tokens."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.components import Weights
from backend.errors import BadFile
from backend.models.adapters import adapt
from backend.models.clip_block import ClipBlock, in_our_names
from backend.models.families.attention_bias import MASK, MASK_PLACES
from backend.models.header import Header
from backend.models.hostcopy import Form, HostCopies
from backend.models.weights import fill, open_file
from backend.types import ClipVisionOutput, Cond
from backend.values import frozen


@frozen
class Redux:
    """Two layers over the tokens of SigLIP. into, inner, out: widths."""

    into: int
    inner: int
    out: int

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return _Redux(self)


@frozen
class StyleAdapter:
    """CLIP's tokens beside a few of its own, through transformer blocks: arXiv:2302.08453."""

    width: int
    out: int
    layers: int
    tokens: int

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return _StyleAdapter(self)


@frozen(eq=False)
class StyleModel:
    """nbytes: of its weights."""

    module: nn.Module
    nbytes: int
    device: torch.device
    dtype: torch.dtype

    def tokens(self, vision: ClipVisionOutput) -> Tensor:
        """The style's tokens, of all pictures in a row: float32 [1, T, C] on the CPU."""
        with torch.no_grad():
            made: Tensor = self.module(vision.last_hidden_state.to(self.device, self.dtype))
        return made.flatten(0, 1).unsqueeze(0).float().cpu()


def styled(cond: Cond, tokens: Tensor, strength: float, biased: bool) -> Cond:
    """A condition followed by a style's tokens.

    strength: a factor of these, or (biased) of how much attention everything else pays to them.
    """
    followed = replace(cond, tokens=torch.cat([cond.tokens, tokens if biased else tokens * strength], dim=1))
    if MASK not in cond.options and not (biased and strength != 1.0):
        return followed
    weight = strength if biased else 1.0
    bias = -inf if weight == 0 else log(weight)
    return replace(followed, options={**cond.options, **_biased(cond, tokens.shape[1], bias)})


def _biased(cond: Cond, count: int, bias: float) -> dict[str, object]:
    """The options that say how much attention is paid to `count` tokens behind the condition's."""
    shape = cond.options.get(MASK_PLACES, (1, 1))
    assert isinstance(shape, tuple)
    places, rows, own = shape[0] * shape[1], len(cond.tokens), cond.tokens.shape[1]
    mask = cond.options.get(MASK)
    if not isinstance(mask, Tensor):
        mask = torch.zeros(rows, own + places, own + places, dtype=torch.float16)
    if mask.dtype == torch.bool:
        mask = mask.to(torch.float16).log()
    size = own + count + places
    wide = torch.zeros(rows, size, size, dtype=torch.float16)
    before, behind = slice(None, own), slice(own + count, None)
    wide[:, before, before], wide[:, before, behind] = mask[:, :own, :own], mask[:, :own, own:]
    wide[:, behind, before], wide[:, behind, behind] = mask[:, own:, :own], mask[:, own:, own:]
    wide[:, before, own : own + count] = bias
    wide[:, behind, own : own + count] = bias
    return {MASK: wide, MASK_PLACES: shape}


def detect(header: Header) -> Redux | StyleAdapter | None:
    """The layout of a style model; None for any other file."""
    if "redux_up.weight" in header and "redux_down.weight" in header:
        inner, into = header.shape("redux_up.weight")
        return Redux(into, inner, header.shape("redux_down.weight")[0])
    if "style_embedding" in header and "proj" in header:
        _, tokens, width = header.shape("style_embedding")
        return StyleAdapter(width, header.shape("proj")[1], header.count("transformer_layes.{}."), tokens)
    return None


def load_style(
    weights: Weights, device: torch.device, dtype: torch.dtype, copies: HostCopies | None = None
) -> StyleModel:
    """A style model of one file. Raises: BadFile where it holds none of a known kind."""
    file = open_file(weights.files[0])
    layout = detect(file.header)
    if layout is None:
        remedy = "Use Flux's Redux, or the style model of T2I-Adapter, from models/style_models."
        raise BadFile(weights.files[0].path, "no style model of a known kind is in it", remedy)
    module = layout.build()
    adapt(module)

    def convert(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield in_our_names(name), weight

    nbytes = fill(module, file, convert, device, Form(dtype), copies.of(weights) if copies else None)
    return StyleModel(module, nbytes, device, dtype)


class _Redux(nn.Module):
    def __init__(self, layout: Redux) -> None:
        super().__init__()
        self.redux_up = nn.Linear(layout.into, layout.inner)
        self.redux_down = nn.Linear(layout.inner, layout.out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.redux_down(F.silu(self.redux_up(x)))
        return out


class _StyleAdapter(nn.Module):
    """Names as in its checkpoint, spelling included."""

    def __init__(self, layout: StyleAdapter) -> None:
        super().__init__()
        width = layout.width
        self.style_embedding = nn.Parameter(torch.empty(1, layout.tokens, width))
        self.transformer_layes = nn.ModuleList(ClipBlock(width) for _ in range(layout.layers))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, layout.out))

    def forward(self, x: Tensor) -> Tensor:
        count = self.style_embedding.shape[1]
        x = self.ln_pre(torch.cat([x, self.style_embedding.expand(len(x), -1, -1)], dim=1))
        for block in self.transformer_layes:
            x = block(x)
        out: Tensor = self.ln_post(x[:, -count:]) @ self.proj
        return out
