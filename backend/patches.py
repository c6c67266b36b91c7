"""What nodes change about a model, as data on its reference: how it samples, and what a pass does besides.

The weights stay as they are. Where several of a kind are on a model, sampling and rescaling go by the last,
the others act one after the other.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Literal, TypeAlias

from backend.latent_operations import LatentOperation
from backend.types import ClipVisionOutput, Image, Mask
from backend.values import frozen

DiscreteKind = Literal["eps", "v_prediction", "lcm", "x0", "img_to_img"]
ContinuousKind = Literal["v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow"]
ResizeMethod = Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]


@frozen
class DiscreteSampling:
    """What the network predicts, over Stable Diffusion's steps of noise.

    zsnr: the range is stretched until its last step holds no signal (arXiv:2305.08891).
    """

    kind: DiscreteKind
    zsnr: bool


@frozen
class FlowSampling:
    """The network predicts the velocity of a rectified flow, over a range of noise with this shift.

    multiplier: the network's time is sigma times this, where the range is not exponential.
    """

    kind: Literal["shifted", "exponential"]
    shift: float
    multiplier: float = 1.0


@frozen
class ContinuousSampling:
    """What the network predicts, over a range of noise without steps. angle: its time is an angle."""

    kind: ContinuousKind
    sigma_min: float
    sigma_max: float
    angle: bool = False


@frozen
class CascadeSampling:
    """The network predicts the noise, over a cosine's range with this shift."""

    shift: float


@frozen
class RescaleCfg:
    """Guidance brought back to the deviation of the unguided prediction: arXiv:2305.08891, section 3.4.

    multiplier: 1 is the rescaled result, 0 the plain one.
    """

    multiplier: float


@frozen
class FreeU:
    """Backbone factors b1, b2 and skip factors s1, s2 of a UNet's two deepest widths: arXiv:2309.11497.

    version 2 scales the backbone by where it is strong, version 1 evenly.
    """

    b1: float
    b2: float
    s1: float
    s2: float
    version: Literal[1, 2]


# A patch's start and end as noise levels of the model it was put on, set when a run begins; None: the run's.
Sigmas: TypeAlias = tuple[float, float]


@frozen
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
    sigmas: Sigmas | None = None


@frozen
class PerturbedAttention:
    """Guidance away from the prediction without self-attention in the middle block: arXiv:2403.17377."""

    scale: float


@frozen
class SelfAttention:
    """Guidance away from the prediction for a latent blurred where the network looks: arXiv:2210.00939.

    blur: deviation of the blur in latent pixels.
    """

    scale: float
    blur: float


@frozen
class Foreign:
    """What a node pack's own functions do in a run (`sampling/foreign.py`).

    code: pickled; owner: who may share work that is done with it, for such functions may keep state.
    """

    code: bytes = field(repr=False)
    owner: str = ""


@frozen
class Blocks:
    """Numbers of a transformer's blocks: of those with two streams (joint attention), and with one."""

    double: tuple[int, ...] = ()
    single: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.double or self.single)


NO_BLOCKS = Blocks()


@frozen
class SkipLayers:
    """Guidance away from the prediction without some of a transformer's blocks (Stability AI, for SD3.5).

    start, end: percent of the run, 0..1; rescale: how far the result's deviation goes back to that of the
    prediction, 0..1.
    """

    blocks: Blocks
    scale: float
    start: float
    end: float
    rescale: float = 0.0
    sigmas: Sigmas | None = None


@frozen
class SkipLayersInNegative:
    """The negative prediction itself is made without some of a transformer's blocks."""

    blocks: Blocks
    start: float
    end: float
    sigmas: Sigmas | None = None


Timed: TypeAlias = Downscale | SkipLayers | SkipLayersInNegative


@frozen
class ProjectedGuidance:
    """Guidance with its part along the prediction scaled by eta: arXiv:2410.02416.

    threshold: the guidance's greatest norm, 0: any; momentum: of its running sum, 0: none.
    """

    eta: float
    threshold: float
    momentum: float


@frozen
class TangentialDamping:
    """The negative prediction loses what is not along the main direction of both: arXiv:2503.18137."""


@frozen
class FrequencyGuidance:
    """The guidance's low and high frequencies scaled apart: arXiv:2504.02154.

    cutoff: how many frequencies around 0, each way, are low.
    """

    low: float
    high: float
    cutoff: int


@frozen
class GuidanceOperation:
    """The guidance (without one, the prediction) changed by a latent operation."""

    operation: LatentOperation


@frozen
class RenormCfg:
    """Guidance at sigmas under `below` alone, the result's norm at most `limit` times the prediction's.

    limit 0: any norm. Source: Lumina-Image 2.0, arXiv:2503.21758.
    """

    below: float
    limit: float


@frozen
class RowScales:
    """Guidance whose scale differs between the rows of a batch, a video's frames: from `least` to the scale.

    shape: rising to the last row, or to the middle one and back.
    """

    least: float
    shape: Literal["linear", "triangle"]


@frozen
class PerpNegative:
    """Guidance away from what is in the negative condition alone: arXiv:2304.04968.

    empty: a Conditioning, or a Ref to one.
    """

    empty: object
    scale: float


@frozen
class CfgNorm:
    """The guided result's length over the channels is at most the prediction's, then times `strength`."""

    strength: float


@frozen
class CfgZeroStar:
    """The negative prediction scaled to fit the positive one best: arXiv:2503.18886."""


@frozen
class Mahiro:
    """The guided result drawn towards the scaled positive prediction, the more the less alike they are."""


@frozen
class EpsilonScale:
    """The predicted noise divided by `factor`: arXiv:2308.15321."""

    factor: float


@frozen
class DifferentialMask:
    """A noise mask of shades: each place is sampled from the time that its shade says: arXiv:2306.00950.

    strength: of that, against the mask as it is; 0 and 1 mean all of it.
    """

    strength: float


@frozen
class HyperTile:
    """Self-attention in tiles of `tile` pixels, down to the `depth`-th halving of the latent.

    choices: among how many tile sizes a random one is taken; grow: tiles keep their size in pixels deeper
    down.
    """

    tile: int
    choices: int
    depth: int
    grow: bool


@frozen
class TokenMerging:
    """Self-attention asks for a part of the places only; the most alike are merged: arXiv:2303.17604."""

    ratio: float


@frozen
class EasyCache:
    """The network is left out while its output changes little: arXiv:2507.02860.

    threshold: of the relative change since it last ran; start, end: percent of the run, 0..1.
    """

    threshold: float
    start: float
    end: float


@frozen
class LazyCache:
    """As EasyCache, by the guided result: all of an evaluation is left out."""

    threshold: float
    start: float
    end: float


@frozen
class BlockGuide:
    """A network adds to the picture behind every block of two streams, by a hint that it is shown.

    network: a PatchNetwork; vae: a Vae, which encodes the picture; mask: what is to be made anew, for those
    networks that are told.
    """

    network: object
    vae: object
    image: Image
    strength: float
    mask: Mask | None = None


@frozen
class StyleReference:
    """A picture's style, as tokens before a prompt's. network: a PatchNetwork."""

    network: object
    vision: ClipVisionOutput


ModelPatch: TypeAlias = (
    Foreign
    | DiscreteSampling
    | FlowSampling
    | ContinuousSampling
    | CascadeSampling
    | RescaleCfg
    | FreeU
    | Downscale
    | PerturbedAttention
    | SelfAttention
    | SkipLayers
    | SkipLayersInNegative
    | ProjectedGuidance
    | TangentialDamping
    | FrequencyGuidance
    | GuidanceOperation
    | RenormCfg
    | RowScales
    | PerpNegative
    | CfgNorm
    | CfgZeroStar
    | Mahiro
    | EpsilonScale
    | DifferentialMask
    | HyperTile
    | TokenMerging
    | EasyCache
    | LazyCache
    | BlockGuide
    | StyleReference
)


def apart(patches: Sequence[ModelPatch]) -> str:
    """Why a run on a model with these shares passes only with runs of the same settings; "": with any."""
    if any(isinstance(patch, Downscale) for patch in patches):
        return "deep shrink: the network works at a lower resolution inside"
    return ""
