"""What LatentOperation nodes describe: a change of a latent, as data. `sampling/operation.py` does it."""

from typing import Annotated, ClassVar, TypeAlias

from backend.types import Wire
from backend.values import frozen


@frozen
class Tonemap:
    """The lengths of latent vectors compressed by Reinhard's curve, up to `multiplier` times a high one."""

    wire: ClassVar[str] = "LATENT_OPERATION"
    multiplier: float


@frozen
class Sharpen:
    """The directions of latent vectors sharpened. sigma: of the blur, in units of the radius."""

    wire: ClassVar[str] = "LATENT_OPERATION"
    radius: int
    sigma: float
    alpha: float


LatentOperation: TypeAlias = Annotated[Tonemap | Sharpen, Wire("LATENT_OPERATION")]
