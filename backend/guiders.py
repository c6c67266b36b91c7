"""What a sampling run is told: noise, sampler, sigmas, and the guider that steers it. All are references."""

from dataclasses import field
from typing import Annotated, ClassVar, TypeAlias

from backend.latent_operations import Sharpen, Tonemap
from backend.references import MODELS, Model, Ref
from backend.types import Conditioning, Image, Wire
from backend.values import frozen


@frozen
class Noise:
    """Initial noise. A disabled noise is all zeros; its seed still drives the noise of SDE samplers."""

    wire: ClassVar[str] = "NOISE"
    seed: int
    enabled: bool = True


@frozen
class GivenNoise:
    """Initial noise that a node pack made. values: a tensor as the latent; the seed is for SDE samplers."""

    wire: ClassVar[str] = "NOISE"
    values: Image
    seed: int
    enabled: bool = True


@frozen
class Sampler:
    """A sampler by ComfyUI's name, with the options that its own node offers (eta, s_noise ...)."""

    wire: ClassVar[str] = "SAMPLER"
    name: str
    options: tuple[tuple[str, float | int | str | bool], ...] = ()


@frozen
class ForeignNoise:
    """Initial noise that a node pack's object makes once the latent is known. code, owner: as of a `Foreign`
    patch.
    """

    wire: ClassVar[str] = "NOISE"
    code: bytes = field(repr=False)
    owner: str
    seed: int
    enabled: bool = True


@frozen
class ForeignSampler:
    """A sampler that is a node pack's own function. code, owner: as of a `Foreign` patch."""

    wire: ClassVar[str] = "SAMPLER"
    name: str
    code: bytes = field(repr=False)
    owner: str


@frozen
class Schedule:
    """Sigmas by name, as KSampler and KSamplerAdvanced ask for them.

    start, end: first and last step that run (None: all). force_full_denoise: a run that ends early ends at
    sigma 0 all the same. code: a node pack's own schedule of that name, as of a `Foreign` patch.
    """

    scheduler: str
    steps: int
    denoise: float = 1.0
    start: int | None = None
    end: int | None = None
    force_full_denoise: bool = True
    code: bytes | None = field(default=None, repr=False)


@frozen
class BetaSchedule:
    """Sigmas of a model by a beta distribution's quantiles; alpha, beta > 0: its parameters."""

    steps: int
    alpha: float
    beta: float


@frozen
class TurboSchedule:
    """Sigmas of a distilled SDXL or SD2 model: `steps` of its ten times, the first at `denoise` (0..1)."""

    steps: int
    denoise: float


@frozen
class BasicGuider:
    """The model's prediction under one conditioning, unsteered."""

    wire: ClassVar[str] = "GUIDER"
    model: Model
    positive: Conditioning | Ref


@frozen
class CfgGuider:
    """Classifier-free guidance: negative + cfg * (positive - negative); one call only where cfg is 1."""

    wire: ClassVar[str] = "GUIDER"
    model: Model
    positive: Conditioning | Ref
    negative: Conditioning | Ref
    cfg: float


@frozen
class DualCfgGuider:
    """Guidance by two conditionings: cfg from `middle` to `positive`, middle_cfg from `negative` to `middle`.

    nested: middle_cfg goes from `negative` to the result of the other, instead of both being added.
    """

    wire: ClassVar[str] = "GUIDER"
    model: Model
    positive: Conditioning | Ref
    middle: Conditioning | Ref
    negative: Conditioning | Ref
    cfg: float
    middle_cfg: float
    nested: bool = False


@frozen
class PerpNegGuider:
    """Guidance from `empty`, away from that part of `negative` alone which is not in `positive`."""

    wire: ClassVar[str] = "GUIDER"
    model: Model
    positive: Conditioning | Ref
    negative: Conditioning | Ref
    empty: Conditioning | Ref
    cfg: float
    neg_scale: float


@frozen
class ForeignGuider:
    """A node pack's own guider. sides: its conditionings by name; cfg: its scale. code, owner: as of a
    `Foreign` patch.
    """

    wire: ClassVar[str] = "GUIDER"
    model: Model
    sides: tuple[tuple[str, Conditioning], ...]
    cfg: float
    code: bytes = field(repr=False)
    owner: str


Guider: TypeAlias = Annotated[
    BasicGuider | CfgGuider | DualCfgGuider | PerpNegGuider | ForeignGuider, Wire("GUIDER")
]

# every kind of reference, those of models too
REFERENCES = (
    *MODELS,
    Noise,
    GivenNoise,
    ForeignNoise,
    Sampler,
    ForeignSampler,
    Schedule,
    BetaSchedule,
    TurboSchedule,
    BasicGuider,
    CfgGuider,
    DualCfgGuider,
    PerpNegGuider,
    ForeignGuider,
    Tonemap,
    Sharpen,
)
