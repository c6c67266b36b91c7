"""Text encoders: prompts -> conditioning, equal to ComfyUI's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from backend.components import Weights
from backend.errors import UnknownFamily, UnsupportedOption
from backend.models.adapters import adapt, offload
from backend.models.blend import Blank, Outline, open_weights
from backend.models.encoders import clip, qwen, t5
from backend.models.encodings import flux, qwen_image, sd3, sd15, sdxl, wan, z_image
from backend.models.hostcopy import Form, HostCopies
from backend.models.lora import own_weight
from backend.models.merged import Copies
from backend.models.text_encoder import EncoderKind, EncoderLayout, Encoding, Request, TextEncoder, Working
from backend.models.text_places import TextPlace, text_places
from backend.models.weights import ModelFile, fill
from backend.types import Cond

__all__ = ["ENCODERS", "ENCODINGS", "Request", "TextEncoder", "Working", "encode_text", "load_text_encoder"]

# By the names of `text_places.py`.
ENCODERS: Mapping[str, EncoderKind] = {
    "clip_l": clip.kind("clip_l"),
    "clip_g": clip.kind("clip_g"),
    "t5xxl": t5.KIND,
    "qwen25_7b": qwen.KIND,
    "qwen3_4b": qwen.KIND,
}
# By the name on `references.Clip`.
ENCODINGS: Mapping[str, Encoding] = {
    "sd15": sd15.SD15,
    "sdxl": sdxl.SDXL,
    "sdxl_refiner": sdxl.REFINER,
    "sd3": sd3.SD3,
    "flux": flux.FLUX,
    "qwen_image": qwen_image.QWEN_IMAGE,
    "wan": wan.WAN,
    "z_image": z_image.Z_IMAGE,
    "sdxl_l": sdxl.SMALL,
}


def load_text_encoder(
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    copies: HostCopies | None = None,
    offloaded: bool = False,
    fits: Callable[[int], bool] = lambda nbytes: True,
) -> TextEncoder:
    """A text encoder of a checkpoint, or of a file of its own.

    offloaded, fits: as `load_denoiser`.
    Raises: UnknownFamily where the file has no such encoder of a known kind; BadFile.
    """
    file, place, layout = _opened(weights)

    def convert(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if place.used(place.added + name):
            yield from layout.convert(place.added + name, weight)

    module = layout.build()
    sites = adapt(module)
    part = file.under(place.prefix)
    dtype = torch.float32 if ENCODERS[place.part].exact else dtype
    copy = copies.of(weights) if copies else None
    host = torch.device("cpu") if offloaded else device
    nbytes = fill(module, part, convert, host, Form(dtype), copy, frugal=True)
    if offloaded:
        nbytes = offload(module, device)
    merged = Copies(partial(own_weight, module), 0 if offloaded else nbytes, fits)
    tokenizer = ENCODERS[place.part].tokenizer(part)
    return TextEncoder(place.part, layout, module, tokenizer, sites, nbytes, merged, device, dtype)


def encode_text(encoding: str, encoders: Sequence[Working], request: Request) -> tuple[Cond, ...]:
    """A prompt's conditioning: ComfyUI's CLIPTextEncode.

    Args: encoding: one of ENCODINGS; encoders: those there are, in any order.
    Returns: conditions, float32 on the CPU. Raises: UnsupportedOption where the encoding is none of ours, or
    needs encoders that are not there.
    """
    if encoding not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        raise UnsupportedOption("type", encoding, f"Choose a type that is served ({known}).")
    found = {working.encoder.part: working for working in encoders}
    chosen = ENCODINGS[encoding]
    if missing := [part for part in chosen.parts if part not in found]:
        remedy = f"Load {', '.join(missing)} beside {', '.join(found)}, or choose another type."
        raise UnsupportedOption("type", encoding, remedy)
    return chosen.encode(found, request)


def _opened(weights: Weights) -> tuple[ModelFile, TextPlace, EncoderLayout]:
    return _found(weights, open_weights(weights, outline))


def outline(weights: Weights, file: ModelFile) -> Outline:
    """What changes of a text encoder's tensors in a file go by."""
    _, _, layout = _found(weights, file)
    module = layout.build()
    sites = adapt(module)
    return Outline(layout.convert, Blank(module, sites, layout.lora_names, is_text=True))


def _found(weights: Weights, file: ModelFile) -> tuple[ModelFile, TextPlace, EncoderLayout]:
    for place in text_places(file.header):
        if weights.part not in ("", place.part) or (kind := ENCODERS.get(place.part)) is None:
            continue
        if (layout := kind.detect(place.named(file.header))) is not None:
            return file, place, layout
    known = ", ".join(ENCODERS)
    found = ", ".join(place.part for place in text_places(file.header))
    problem = f"no text encoder of a supported kind ({known}) in it" + (f", but {found}" if found else "")
    remedy = "Use a checkpoint with a text encoder, or an encoder's own file with CLIPLoader."
    raise UnknownFamily(weights.files[0].path, problem, remedy)
