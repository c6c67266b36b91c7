"""What LatentOperation nodes describe: a change of a latent, as data. `sampling/operation.py` does it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from backend.types import Wire


@dataclass(frozen=True, slots=True)
class Tonemap:
    """The lengths of latent vectors compressed by Reinhard's curve, up to `multiplier` times a high one."""

    wire: ClassVar[str] = "LATENT_OPERATION"
    multiplier: float


@dataclass(frozen=True, slots=True)
class Sharpen:
    """The directions of latent vectors sharpened. sigma: of the blur, in units of the radius."""

    wire: ClassVar[str] = "LATENT_OPERATION"
    radius: int
    sigma: float
    alpha: float


LatentOperation: TypeAlias = Annotated[Tonemap | Sharpen, Wire("LATENT_OPERATION")]
