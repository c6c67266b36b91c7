"""A pass through diffusers' UNet, block by block, with what its rows ask for beside it.

The blocks are numbered as in the original checkpoints: input block 0 is the first convolution, and each
residual block (with its transformer) and each downsampler is one more.
"""

from collections.abc import Sequence
from typing import NoReturn, TypeAlias

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.models.additions import NO_ADDITIONS, Additions, Residuals
from backend.models.families.attention import Sight, sight_of
from backend.patches import Downscale, FreeU
from backend.resize import resize
from backend.values import frozen

# A UNet, or the ControlNet that has the same way down and middle.
Trunk: TypeAlias = UNet2DConditionModel | ControlNetModel


def forward(
    module: UNet2DConditionModel,
    x: Tensor,
    embedding: Tensor,
    tokens: Tensor,
    additions: Additions = NO_ADDITIONS,
) -> Tensor:
    """The UNet's output [R, C, H, W] for x [R, C, H, W].

    Args: embedding [R, E], of the time and whatever else; tokens [R, T, context].
    """
    blocks = _Blocks(additions, module.config["block_out_channels"][0])
    residuals = additions.residuals or Residuals()
    if residuals.blocks or residuals.singles:
        _refuse("additions to the blocks of a transformer")
    sight = sight_of(additions, (x.shape[-2], x.shape[-1]))
    context = _Context(embedding, tokens, None if sight is None else {"sight": sight})
    h, skips = _down(module, module.conv_in(x), context, blocks)
    blocks.enter("middle", 0)
    h = _middle(module, h, context)
    if additions.late is not None:
        residuals = residuals.plus(additions.late())
    skips = _controlled(skips, residuals.skips, blocks.shrinks)
    (h,) = _controlled([h], [residuals.middle], blocks.shrinks)
    h = _up(module, h, skips, context, blocks)
    out: Tensor = module.conv_out(module.conv_act(module.conv_norm_out(h)))
    return out


def trunk(module: Trunk, h: Tensor, embedding: Tensor, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
    """What each input block of a network hands on, first h [R, C, H, W] itself; and the middle."""
    context = _Context(embedding, tokens, None)
    h, skips = _down(module, h, context, _Blocks(NO_ADDITIONS, h.shape[1]))
    return skips, _middle(module, h, context)


def time_embedding(module: Trunk, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
    """timesteps [R] -> [R, E]."""
    embedding: Tensor = module.time_embedding(module.time_proj(timesteps).to(dtype))
    return embedding


@frozen(eq=False)
class _Context:
    """What every block is given beside its input. kwargs: of the attention processors."""

    embedding: Tensor
    tokens: Tensor
    kwargs: dict[str, Sight] | None


class _Blocks:
    """What the rows' block patches do at a block. width: channels of the UNet's finest level."""

    def __init__(self, additions: Additions, width: int) -> None:
        self._stacks, self._width = additions.stacks(), width
        self.residuals = additions.residuals or Residuals()
        self._code = additions.code
        # rows of one pass agree in what changes their size: batching sees to that
        first = self._stacks[0][0] if self._stacks else ()
        self._downscales = [patch for patch in first if isinstance(patch, Downscale)]

    @property
    def shrinks(self) -> bool:
        """Some blocks work at another resolution than the network was made for."""
        return bool(self._downscales)

    def enter(self, kind: str, number: int) -> None:
        """Where the pass is, for functions of node packs."""
        if self._code is not None:
            self._code.enter(kind, number)

    def before_skip(self, number: int, h: Tensor) -> Tensor:
        h = self._shrunk(number, h, after_skip=False)
        return h if self._code is None else self._code.after_input(h, after_skip=False)

    def after_skip(self, number: int, h: Tensor) -> Tensor:
        h = self._shrunk(number, h, after_skip=True)
        return h if self._code is None else self._code.after_input(h, after_skip=True)

    def _shrunk(self, number: int, h: Tensor, after_skip: bool) -> Tensor:
        for patch in self._downscales:
            if patch.block == number and patch.after_skip == after_skip:
                height, width = (round(side * (1.0 / patch.factor)) for side in h.shape[-2:])
                h = resize(h, width, height, patch.down)
        return h

    def output(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into an output block: the backbone and the skip."""
        for downscale in self._downscales:
            if h.shape[2] != skip.shape[2]:
                h = resize(h, skip.shape[-1], skip.shape[-2], downscale.up)
        for stack, rows in self._stacks:
            for patch in stack:
                if isinstance(patch, FreeU):
                    h, skip = self._freed(patch, h, skip, rows)
        return (h, skip) if self._code is None else self._code.before_output(h, skip)

    def _freed(self, patch: FreeU, h: Tensor, skip: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
        factors = {self._width * 4: (patch.b1, patch.s1), self._width * 2: (patch.b2, patch.s2)}
        if h.shape[1] not in factors:
            return h, skip
        backbone, kept = factors[h.shape[1]]
        if len(rows) == len(h):
            return _strengthened(h, backbone, patch.version), _low_frequencies_scaled(skip, kept)
        index = torch.tensor(rows, device=h.device)
        h = h.index_copy(0, index, _strengthened(h[index], backbone, patch.version))
        return h, skip.index_copy(0, index, _low_frequencies_scaled(skip[index], kept))


def _down(module: Trunk, h: Tensor, context: _Context, blocks: _Blocks) -> tuple[Tensor, list[Tensor]]:
    skips: list[Tensor] = []

    def done(h: Tensor) -> Tensor:
        number = len(skips)
        (h,) = _controlled([h], blocks.residuals.inputs[number : number + 1] or [None], blocks.shrinks)
        skips.append(blocks.before_skip(number, h))
        return blocks.after_skip(number, skips[-1])

    h = done(h)
    for level in module.down_blocks:
        for i, resnet in enumerate(level.resnets):
            blocks.enter("input", len(skips))
            h = resnet(h, context.embedding)
            h = done(_attended(level, i, h, context))
        for sampler in level.downsamplers or ():
            blocks.enter("input", len(skips))
            h = done(sampler(h))
    return h, skips


def _middle(module: Trunk, h: Tensor, context: _Context) -> Tensor:
    middle = module.mid_block
    h = middle.resnets[0](h, context.embedding)
    for i, resnet in enumerate(middle.resnets[1:]):
        h = resnet(_attended(middle, i, h, context), context.embedding)
    return h


def _up(
    module: UNet2DConditionModel,
    h: Tensor,
    skips: list[Tensor],
    context: _Context,
    blocks: _Blocks,
) -> Tensor:
    skips, count = list(skips), len(skips)
    for level in module.up_blocks:
        for i, resnet in enumerate(level.resnets):
            blocks.enter("output", count - len(skips))
            h = resnet(torch.cat(blocks.output(h, skips.pop()), dim=1), context.embedding)
            h = _attended(level, i, h, context)
        for sampler in level.upsamplers or ():
            h = sampler(h, tuple(skips[-1].shape[2:]))
    return h


def _controlled(values: Sequence[Tensor], residuals: Sequence[Tensor | None], shrunk: bool) -> list[Tensor]:
    """Each value with its residual, but for those that a lower resolution inside left without a fitting one.

    Raises: UnsupportedOption where a control model's residuals are not those of this network.
    """
    if not residuals:
        return list(values)
    made = [None if part is None else tuple(part.shape[1:]) for part in residuals]
    wanted = [tuple(value.shape[1:]) for value in values]
    pairs = list(zip(made, wanted, strict=False))
    if len(made) != len(wanted) or not all(
        m is None or m == w or (shrunk and m[0] == w[0]) for m, w in pairs
    ):
        _refuse(f"residuals of shapes {made} where the model has {wanted}")
    fit = [residual if m == w else None for residual, (m, w) in zip(residuals, pairs, strict=True)]
    return [
        value if residual is None else value + residual for value, residual in zip(values, fit, strict=True)
    ]


def _refuse(value: str) -> NoReturn:
    raise UnsupportedOption("control_net", value, "Use a ControlNet that was made for this model.")


def _attended(level: torch.nn.Module, index: int, h: Tensor, context: _Context) -> Tensor:
    attentions = getattr(level, "attentions", None)
    if attentions is None:
        return h
    (h,) = attentions[index](
        h, encoder_hidden_states=context.tokens, cross_attention_kwargs=context.kwargs, return_dict=False
    )
    return h


def _strengthened(h: Tensor, factor: float, version: int) -> Tensor:
    """The first half of the channels, scaled: evenly, or by how strong the mean over channels is there."""
    scale: Tensor | float = factor
    if version == 2:
        mean = h.mean(1, keepdim=True)
        low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
        scale = (factor - 1) * ((mean - low) / (high - low)) + 1
    half = h.shape[1] // 2
    return torch.cat([h[:, :half] * scale, h[:, half:]], dim=1)


def _low_frequencies_scaled(skip: Tensor, factor: float) -> Tensor:
    """The four coefficients around frequency 0 scaled."""
    waves = torch.fft.fftshift(torch.fft.fftn(skip.float(), dim=(-2, -1)), dim=(-2, -1))
    row, column = waves.shape[-2] // 2, waves.shape[-1] // 2
    waves[..., row - 1 : row + 1, column - 1 : column + 1] *= factor
    waves = torch.fft.ifftshift(waves, dim=(-2, -1))
    scaled: Tensor = torch.fft.ifftn(waves, dim=(-2, -1)).real.to(skip.dtype)
    return scaled
