"""Where components stand in model files, by names alone: what is stripped, what left out. Without torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from backend.models.header import Header
from backend.references import ComponentKind

RULES_VERSION = 1  # raise it when a rule below changes: identities are computed anew then

DENOISER_PREFIXES = ("model.diffusion_model.", "")  # in a checkpoint; in a file of its own
VAE_PREFIXES = ("first_stage_model.", "vae.", "")
VAE_NAMES = ("encoder.", "decoder.", "quant_", "post_quant_")  # all else in a VAE's file is of its training
# The prefix of a text model, and what its names lack there: a checkpoint; one that was saved without
# `text_model`; a file of its own, bare or as ComfyUI saves it.
TEXT_PREFIXES = (
    ("cond_stage_model.transformer.", ""),
    ("cond_stage_model.transformer.", "text_model."),
    ("", ""),
    ("clip_l.transformer.", ""),
)
TEXT_UNUSED = (".position_ids", "text_projection.weight", "logit_scale")  # SD 1.x uses none of them
MARKS = frozenset({"v_pred", "ztsnr"})  # empty tensors that say what a denoiser predicts


@dataclass(frozen=True, slots=True)
class Place:
    """A component in a file. names: canonical name -> name in the file; marks: those that belong to it."""

    kind: ComponentKind
    names: Mapping[str, str]
    contained: bool
    marks: tuple[str, ...] = ()


def places(header: Header) -> tuple[Place, ...]:
    """The components that a whole file may be asked for, each where its loader looks for it."""
    found = (_denoiser(header), _text_encoder(header), _vae(header))
    return tuple(place for place in found if place.names)


def _denoiser(header: Header) -> Place:
    prefix = next(p for p in DENOISER_PREFIXES if _any(header, p))
    names = {n: f for n, f in _under(header, prefix).items() if n not in MARKS}
    marks = sorted({name.rpartition(".")[2] for name in header if _is_mark(name, prefix)})
    return Place("denoiser", names, prefix != "", tuple(marks))


def _text_encoder(header: Header) -> Place:
    prefix = next((p for p, _ in TEXT_PREFIXES if p and _any(header, p)), "")
    names = {n: f for n, f in _under(header, prefix).items() if not n.endswith(TEXT_UNUSED)}
    if "embeddings.token_embedding.weight" in names:
        names = {f"text_model.{n}": f for n, f in names.items()}
    return Place("text_encoder", names, prefix not in ("", "clip_l.transformer."))


def _vae(header: Header) -> Place:
    prefix = next(p for p in VAE_PREFIXES if _any(header, p))
    names = {n: f for n, f in _under(header, prefix).items() if n.startswith(VAE_NAMES)}
    return Place("vae", names, prefix == "first_stage_model.")


def _under(header: Header, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): name for name in header if name.startswith(prefix)}


def _any(header: Header, prefix: str) -> bool:
    return prefix == "" or any(name.startswith(prefix) for name in header)


def _is_mark(name: str, prefix: str) -> bool:
    return name in MARKS or (name.startswith(prefix) and name.removeprefix(prefix) in MARKS)
