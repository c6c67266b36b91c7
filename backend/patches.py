"""What nodes change about a model, as data on its reference: how it samples, and what a pass does besides.

The weights stay as they are. Where several of a kind are on a model, sampling and rescaling go by the last,
the others act one after the other.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

DiscreteKind = Literal["eps", "v_prediction", "lcm", "x0", "img_to_img"]
ResizeMethod = Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]


@dataclass(frozen=True, slots=True)
class DiscreteSampling:
    """What the network predicts, over Stable Diffusion's steps of noise.

    zsnr: the range is stretched until its last step holds no signal (arXiv:2305.08891).
    """

    kind: DiscreteKind
    zsnr: bool


@dataclass(frozen=True, slots=True)
class RescaleCfg:
    """Guidance brought back to the deviation of the unguided prediction: arXiv:2305.08891, section 3.4.

    multiplier: 1 is the rescaled result, 0 the plain one.
    """

    multiplier: float


@dataclass(frozen=True, slots=True)
class FreeU:
    """Backbone factors b1, b2 and skip factors s1, s2 of a UNet's two deepest widths: arXiv:2309.11497.

    version 2 scales the backbone by where it is strong, version 1 evenly.
    """

    b1: float
    b2: float
    s1: float
    s2: float
    version: Literal[1, 2]


@dataclass(frozen=True, slots=True)
class Downscale:
    """The network works at a lower resolution from an input block on, early in the run (Kohya's deep shrink).

    block: number of the input block; factor: old size by new; start, end: percent of the run, 0..1;
    after_skip: what the block hands to the other side keeps its size.
    """

    block: int
    factor: float
    start: float
    end: float
    after_skip: bool
    down: ResizeMethod
    up: ResizeMethod


@dataclass(frozen=True, slots=True)
class PerturbedAttention:
    """Guidance away from the prediction without self-attention in the middle block: arXiv:2403.17377."""

    scale: float


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Guidance away from the prediction for a latent blurred where the network looks: arXiv:2210.00939.

    blur: deviation of the blur in latent pixels.
    """

    scale: float
    blur: float


ModelPatch: TypeAlias = DiscreteSampling | RescaleCfg | FreeU | Downscale | PerturbedAttention | SelfAttention
