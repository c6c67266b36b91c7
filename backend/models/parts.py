"""Where components stand in model files, by names alone: what is stripped, what left out. Without torch."""

from collections.abc import Iterator, Mapping

from backend.components import ComponentKind
from backend.models.header import Header
from backend.models.text_places import text_places
from backend.values import frozen

RULES_VERSION = 4  # raise it when a rule below changes: identities are computed anew then

DENOISER_PREFIXES = ("model.diffusion_model.", "")  # in a checkpoint; in a file of its own
VAE_PREFIXES = ("first_stage_model.", "vae.", "")
# All else in a VAE's file is of its training.
VAE_NAMES = ("encoder.", "decoder.", "quant_", "post_quant_", "conv1.", "conv2.")
# Tensors that say what a denoiser predicts, by being there.
MARKS = frozenset({"v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"})


@frozen
class Place:
    """A component in a file. names: canonical name -> name in the file; marks: those that belong to it;
    part: which of several of its kind.
    """

    kind: ComponentKind
    names: Mapping[str, str]
    contained: bool
    marks: tuple[str, ...] = ()
    part: str = ""


def places(header: Header) -> tuple[Place, ...]:
    """The components that a whole file may be asked for, each where its loader looks for it."""
    found = (_denoiser(header), *_text_encoders(header), _vae(header))
    return tuple(place for place in found if place.names)


def place_of(header: Header, kind: ComponentKind, part: str) -> Place | None:
    """A component's place in a file. part: "" for the first of its kind. None: it is all of the file."""
    return next((p for p in places(header) if p.kind == kind and part in ("", p.part)), None)


def _denoiser(header: Header) -> Place:
    prefix = next(p for p in DENOISER_PREFIXES if _any(header, p))
    names = {n: f for n, f in _under(header, prefix).items() if n not in MARKS}
    marks = sorted({name.removeprefix(prefix) for name in header if name.removeprefix(prefix) in MARKS})
    return Place("denoiser", names, prefix != "", tuple(marks))


def _text_encoders(header: Header) -> Iterator[Place]:
    for place in text_places(header):
        lacking = len(place.added)
        names = {name: place.prefix + name[lacking:] for name in place.named(header)}
        yield Place("text_encoder", names, place.contained, part=place.part)


def _vae(header: Header) -> Place:
    prefix = next(p for p in VAE_PREFIXES if _any(header, p))
    names = {n: f for n, f in _under(header, prefix).items() if n.startswith(VAE_NAMES)}
    return Place("vae", names, prefix == "first_stage_model.")


def _under(header: Header, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): name for name in header if name.startswith(prefix)}


def _any(header: Header, prefix: str) -> bool:
    return prefix == "" or any(name.startswith(prefix) for name in header)
