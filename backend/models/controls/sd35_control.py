"""ControlNets of SD 3.5 (Stability's): blocks that see the picture and the hint, and no text.

They lack a part of the model that they are for: the layer that takes the latent in or, where their own layers
of the pooled text are as wide as the model, its layers of that. In the latter each block sees what goes into
the first. Names are the original ones or diffusers'.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from math import ceil

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.control_layout import MAKE, ControlInputs, HintFormat, Preparation
from backend.models.families.sd3 import HEAD, LATENT
from backend.models.families.sequence import PATCH, padded, patches
from backend.models.header import Header
from backend.models.weights import ModelFile
from backend.values import frozen

TYPE = "control_type"  # the tensor that says what the hint is
_PREPARATIONS: Mapping[str, Preparation] = {"1": "canny", "2": "inverted"}  # canny and depth
_TIME = 256  # numbers that a time is written in
_MARK = "transformer_blocks.0.adaLN_modulation.1.weight"
_TEXT, _TEXT_OF_MODEL, _LATENT = "y_embedder.", "orig_y_embedder.", "x_embedder."
_ORIGINAL = {
    "pos_embed.proj.": f"{_LATENT}proj.",
    "time_text_embed.timestep_embedder.linear_1.": "t_embedder.mlp.0.",
    "time_text_embed.timestep_embedder.linear_2.": "t_embedder.mlp.2.",
    "time_text_embed.text_embedder.linear_1.": f"{_TEXT}mlp.0.",
    "time_text_embed.text_embedder.linear_2.": f"{_TEXT}mlp.2.",
}
_CENTRE = 7.5  # of the known positions along the shorter side


@frozen
class Sd35Control:
    """pooled: width of the pooled text; apart: each block sees what goes into the first, and the pooled text
    comes through the model's layers.
    """

    width: int
    depth: int
    pooled: int
    apart: bool
    preparation: Preparation = "none"

    @property
    def hint(self) -> HintFormat:
        return HintFormat(pixels=1, latent=LATENT, preparation=self.preparation)

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return _Network(self)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name != TYPE:
            yield name, weight

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        if given.x.ndim != 4 or given.x.shape[1] != LATENT.channels:
            raise UnsupportedOption("control_net", "a ControlNet of SD 3.5 with another model", MAKE)
        made: list[Tensor] = module(given.x, given.hint, given.timesteps, given.extra.get("pooled"))
        times = ceil(self.width // HEAD / self.depth)  # the model has as many blocks as heads
        return Residuals(blocks=tuple(value for value in made for _ in range(times)))


def lacks_layers(header: Header) -> bool:
    """Whether a file holds such a ControlNet, which needs its model's file beside it."""
    return _MARK in header and "pos_embed_input.proj.weight" in header


def with_layers(file: ModelFile, model: ModelFile) -> ModelFile:
    """The ControlNet by the original names, with what it takes from its model.

    Raises: BadFile where its model's file has changed.
    """
    named = {_original(name): name for name in file.header}
    first = file.header.shape(named[f"{_TEXT}mlp.0.weight"])
    theirs, ours = (_TEXT, _TEXT_OF_MODEL) if first[0] == first[1] else (_LATENT, _LATENT)
    part = model.under(theirs)
    infos = {name: file.header.tensors[own] for name, own in named.items()}
    infos |= {ours + name: info for name, info in part.header.tensors.items()}
    tensors = {name: file.tensor(own) for name, own in named.items()}
    tensors |= {ours + name: value for name, value in part.tensors()}
    packings = {_original(name): packing for name, packing in file.packings.items()}
    packings |= {ours + name: packing for name, packing in part.packings.items()}
    model.check()
    kind = str(round(float(tensors[TYPE]))) if TYPE in tensors else ""
    return ModelFile(Header(file.header.path, infos, {TYPE: kind}), tensors, file.file, packings)


def detect(header: Header) -> Sd35Control | None:
    """Of a file with its model's layers; None for anything else."""
    if not lacks_layers(header) or f"{_LATENT}proj.weight" not in header:
        return None
    width = header.shape(f"{_LATENT}proj.weight")[0]
    apart = f"{_TEXT_OF_MODEL}mlp.0.weight" in header
    pooled = header.shape(f"{_TEXT_OF_MODEL if apart else _TEXT}mlp.0.weight")[1]
    preparation = _PREPARATIONS.get(header.metadata.get(TYPE, ""), "none")
    return Sd35Control(width, header.count("transformer_blocks.{}."), pooled, apart, preparation)


def positions(width: int, rows: int, columns: int) -> Tensor:
    """float32 [rows * columns, width]: the shorter side spans the known positions, the longer one more."""
    shorter = min(rows, columns)
    spans = ((count / shorter * _CENTRE, count) for count in (rows, columns))
    down, across = (torch.linspace(_CENTRE - span, _CENTRE + span, count) for span, count in spans)
    scale = 10000.0 ** -(torch.arange(width // 4) / (width / 4))
    sides = (across.repeat(rows), down.repeat_interleave(columns))
    turned = [torch.outer(side, scale) for side in sides]
    return torch.cat([part for turn in turned for part in (turn.sin(), turn.cos())], dim=1)


def _original(name: str) -> str:
    for theirs, ours in _ORIGINAL.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


class _Network(nn.Module):
    def __init__(self, layout: Sd35Control) -> None:
        super().__init__()
        self.layout, width = layout, layout.width
        text = width if layout.apart else layout.pooled
        self.x_embedder, self.pos_embed_input = _patches(width), _patches(width)
        self.t_embedder, self.y_embedder = _told(_TIME, width), _told(text, width)
        if layout.apart:
            self.orig_y_embedder = _told(layout.pooled, width)
        self.transformer_blocks = nn.ModuleList(_Block(width) for _ in range(layout.depth))
        self.controlnet_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(layout.depth))

    def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, pooled: Tensor | None) -> list[Tensor]:
        hidden = _tokens(self.x_embedder, x)
        if not self.layout.apart:
            rows, columns = (patches(side) for side in x.shape[-2:])
            hidden = hidden + positions(self.layout.width, rows, columns).to(hidden)
        hidden = hidden + _tokens(self.pos_embed_input, hint)
        told: Tensor = self.t_embedder["mlp"](_written(timesteps).to(hidden))
        if pooled is not None:
            text = self.orig_y_embedder["mlp"](pooled) if self.layout.apart else pooled
            told = told + self.y_embedder["mlp"](text)
        made = []
        for block, out in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            seen = block(hidden, told)
            hidden = hidden if self.layout.apart else seen
            made.append(out(seen))
        return made


class _Block(nn.Module):
    """A joint block's part for the picture, by itself. Source: arXiv:2212.09748, with adaLN-Zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation(told)[:, None].chunk(6, dim=-1)
        parts = self.attn["qkv"](_normed(hidden) * (1 + scale) + shift).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        hidden = hidden + gate * self.attn["proj"](seen)
        wide = F.gelu(self.mlp["fc1"](_normed(hidden) * (1 + scale2) + shift2), approximate="tanh")
        out: Tensor = hidden + gate2 * self.mlp["fc2"](wide)
        return out


def _normed(hidden: Tensor) -> Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6)


def _patches(width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"proj": nn.Conv2d(LATENT.channels, width, PATCH, stride=PATCH)})


def _told(into: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(into, width), nn.SiLU(), nn.Linear(width, width))})


def _tokens(embedder: nn.ModuleDict, x: Tensor) -> Tensor:
    made: Tensor = embedder["proj"](padded(x)).flatten(2).transpose(1, 2)
    return made


_written = partial(
    get_timestep_embedding, embedding_dim=_TIME, flip_sin_to_cos=True, downscale_freq_shift=0.0
)
