"""Model files as ComfyUI's saving nodes write them: names by the family, streamed tensor by tensor."""

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from backend.components import Adjustment, Blend, Source, Weights, blended
from backend.errors import BadFile
from backend.models import denoiser, text, vision
from backend.models.blend import open_weights
from backend.models.parts import place_of
from backend.models.text_places import text_places
from backend.models.weights import Convert, ModelFile, open_file
from backend.references import Clip, ClipVision, Model, Vae
from backend.values import frozen

DENOISER = "model.diffusion_model."
_CONTEXT = 77  # tokens of a CLIP text model
_LOGIT_SCALE = 4.6055  # ComfyUI's value where a file has none: log(1 / 0.07), as OpenAI initialised it
_CLIPS = ("clip_l", "clip_g", "clip_h")
# Encoders that CLIPSave puts into a file of their own, by ComfyUI's names.
_OWN_FILES = (*_CLIPS, "t5xxl", "pile_t5xl", "mt5xl", "umt5xxl", "t5base", "gemma2_2b", "llama", "hydit_clip")
# Where Stable Diffusion's checkpoints have their encoders; others are below "text_encoders.".
_CHECKPOINTS = {
    ("sd15", "clip_l"): "cond_stage_model.transformer.",
    ("sdxl", "clip_l"): "conditioner.embedders.0.transformer.",
    ("sdxl", "clip_g"): "conditioner.embedders.1.model.",
    ("sdxl_refiner", "clip_g"): "conditioner.embedders.0.model.",
}
_PROJECTION = "text_projection.weight"
_FIRST_STAGE = ("sd15", "sdxl", "sdxl_refiner", "sd3")  # families whose VAE is under Stable Diffusion's name
_ARCHITECTURES = {
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl_refiner": "stable-diffusion-xl-v1-refiner",
    "sd3": "stable-diffusion-v3-medium",
}
# transformers' names of CLIP's tensors -> OpenCLIP's.
_OPEN_CLIP = (
    (r"text_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (r"text_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"text_model\.encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (
        r"text_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.",
        r"transformer.resblocks.\1.attn.out_proj.",
    ),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.", "ln_final."),
)
_QUERY = re.compile(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@frozen
class Entry:
    """A tensor to be written. make: gives it, in any floating dtype; it is cast to `dtype` then."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


Entries: TypeAlias = dict[str, Entry]


def checkpoint_entries(
    model: Model, clip: Clip | None = None, vae: Vae | None = None, eyes: ClipVision | None = None
) -> Entries:
    """Everything of a checkpoint by its names there; LoRAs are baked in. Raises: BadFile, UnknownFamily."""
    family, layout = denoiser.describe(model.weights)
    weights = _with_loras(model.weights, model.loras)
    entries = {DENOISER + name: entry for name, entry in _component(weights).items()}
    if clip is not None:
        entries |= dict(_encoders(clip, family.name))
    if vae is not None:
        prefix = "first_stage_model." if family.name in _FIRST_STAGE else "vae."
        entries |= {prefix + name: entry for name, entry in _component(vae.weights).items()}
    if eyes is not None:
        entries |= _vision(eyes.weights)
    if layout.prediction.kind == "v":
        entries["v_pred"] = given(torch.tensor([]))
        if any(getattr(patch, "zsnr", False) for patch in model.patches):
            entries["ztsnr"] = given(torch.tensor([]))
    return entries


def checkpoint_facts(model: Model, title: str) -> dict[str, str]:
    """What a file's metadata say of the model, by the keys of the Model Spec that ComfyUI writes."""
    family, layout = denoiser.describe(model.weights)
    facts = {}
    if (architecture := _ARCHITECTURES.get(family.name)) is not None:
        facts = {
            "modelspec.architecture": architecture,
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.implementation": "sgm",
            "modelspec.title": title,
        }
    predicted = {"eps": "epsilon", "v": "v"}.get(layout.prediction.kind)
    return facts if predicted is None else {**facts, "modelspec.predict_key": predicted}


def encoder_files(clip: Clip) -> dict[str, Entries]:
    """What CLIPSave writes: the end of a file's name ("" for none) -> its tensors."""
    files: dict[str, Entries] = {}
    for weights in clip.weights:
        part, entries = _encoder(weights, clip.loras)
        if part in _OWN_FILES:
            files[part] = entries
        else:
            files.setdefault("", {}).update((_nested(part, name), e) for name, e in entries.items())
    return files


def component_entries(weights: Weights, loras: tuple[Adjustment, ...]) -> Entries:
    """A component's tensors by their canonical names, LoRAs baked in."""
    return _component(_with_loras(weights, loras))


def encoder_entries(clip: Clip) -> Entries:
    """All text encoders' tensors by ComfyUI's own names, LoRAs baked in."""
    found = (_encoder(weights, clip.loras) for weights in clip.weights)
    return {_nested(part, name): entry for part, entries in found for name, entry in entries.items()}


def vae_entries(vae: Vae) -> Entries:
    """A VAE's tensors by their names in a file of its own."""
    return _component(vae.weights)


def write(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str] | None) -> None:
    """A safetensors file, in the order of names, one tensor in memory at a time. A failure leaves nothing.

    Source: https://github.com/huggingface/safetensors#format.
    """
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(_table(entries, metadata))
            file.writelines(data for name in sorted(entries) for data in _bytes(name, entries[name]))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _table(entries: Mapping[str, Entry], metadata: Mapping[str, str] | None) -> bytes:
    table: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(entries):
        entry, start = entries[name], end
        end += entry.nbytes
        offsets = [start, end]
        table[name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    return struct.pack("<Q", len(text)) + text


def _bytes(name: str, entry: Entry) -> Iterator[memoryview]:
    value = entry.make().to(entry.dtype).contiguous()
    if tuple(value.shape) != entry.shape:
        raise BadFile(name, f"has the shape {list(value.shape)}, not {list(entry.shape)}", "Report this.")
    if value.numel():
        yield value.reshape(-1).view(torch.uint8).numpy().data


# -- components --------------------------------------------------------------------------------------


def _component(weights: Weights) -> Entries:
    """A component's tensors by their canonical names, in the dtypes of their file."""
    file = _opened(weights)
    place = place_of(file.header, weights.kind, weights.part)
    names = {name: name for name in file.header} if place is None else dict(place.names)
    tensors = dict(file.tensors()) if file.pickled is None else file.pickled
    return {canonical: _read(file, tensors, name) for canonical, name in names.items()}


def _opened(weights: Weights) -> ModelFile:
    if weights.kind not in ("denoiser", "text_encoder"):  # only these are merged and take LoRAs
        return open_file(weights.files[0])
    return open_weights(weights, denoiser.outline if weights.kind == "denoiser" else text.outline)


def _vision(weights: Weights) -> Entries:
    """An image encoder by transformers' names."""
    entries, layout = _component(weights), vision.detect(_opened(weights).header)
    if layout is not None and any(name.startswith("visual.") for name in entries):
        return dict(_converted(entries, layout.convert))
    return entries


def _read(file: ModelFile, tensors: Mapping[str, Tensor], name: str) -> Entry:
    info = file.header.tensors[name]
    if info.dtype not in _DTYPES:
        raise BadFile(
            file.header.path, f"{name!r} is {info.dtype}, which can't be saved", "Convert it first."
        )
    return Entry(_DTYPES[info.dtype], info.shape, lambda: tensors[name])


def given(value: Tensor) -> Entry:
    """A tensor that is there."""
    return Entry(value.dtype, tuple(value.shape), lambda: value)


def _with_loras(weights: Weights, loras: tuple[Adjustment, ...]) -> Weights:
    return blended(Blend(Source(weights, loras))) if loras else weights


# -- text encoders -----------------------------------------------------------------------------------


def _encoders(clip: Clip, family: str) -> Iterator[tuple[str, Entry]]:
    """The text encoders by their names in a checkpoint of the family."""
    for weights in clip.weights:
        part, entries = _encoder(weights, clip.loras)
        if (family, part) in _CHECKPOINTS:
            yield from _placed(family, part, entries)
        else:
            yield from (("text_encoders." + _nested(part, name), e) for name, e in entries.items())


def _placed(family: str, part: str, entries: Entries) -> Iterator[tuple[str, Entry]]:
    """In Stable Diffusion's checkpoints: CLIP-L without what nothing uses, bigG by OpenCLIP's names."""
    prefix = _CHECKPOINTS[family, part]
    if part == "clip_g":
        yield from ((prefix + name, entry) for name, entry in _open_clip(entries))
        return
    yield from ((prefix + n, e) for n, e in entries.items() if n not in ("logit_scale", _PROJECTION))
    if family != "sd15":
        yield prefix + "text_model.embeddings.position_ids", given(torch.arange(_CONTEXT)[None])


def _encoder(weights: Weights, loras: tuple[Adjustment, ...]) -> tuple[str, Entries]:
    """An encoder's name, and its tensors by transformers' names, with what ComfyUI adds to them."""
    weights = _with_loras(weights, loras)
    file = _opened(weights)
    place = next(p for p in text_places(file.header) if weights.part in ("", p.part))
    entries = _component(weights)
    if any(name.startswith("transformer.resblocks.") for name in entries):
        entries = dict(_converted(entries, text.outline(weights, file).convert))
    tensors = dict(file.tensors()) if file.pickled is None else file.pickled
    for name in (_PROJECTION, "logit_scale"):  # what nothing computes with is no part of the component
        if place.prefix + name in file.header:
            entries.setdefault(name, _read(file, tensors, place.prefix + name))
    if (scale := entries.get("logit_scale")) is not None:  # ComfyUI keeps it in float32 whatever the file has
        entries["logit_scale"] = replace(scale, dtype=torch.float32)
    if place.part in _CLIPS and _PROJECTION not in entries:
        norm = entries["text_model.final_layer_norm.weight"]
        width = norm.shape[0]
        entries[_PROJECTION] = Entry(norm.dtype, (width, width), lambda: torch.eye(width))
    entries.setdefault("logit_scale", given(torch.tensor(_LOGIT_SCALE)))
    return place.part, entries


def _converted(entries: Entries, convert: Convert) -> Iterator[tuple[str, Entry]]:
    """By the network's own names. Shapes are known before anything is read."""
    for name, entry in entries.items():
        blank = torch.empty(entry.shape, dtype=entry.dtype, device="meta")
        for number, (target, part) in enumerate(convert(name, blank)):
            make = partial(_nth, convert, name, entry, number)
            yield target, Entry(entry.dtype, tuple(part.shape), make)


def _nth(convert: Convert, name: str, entry: Entry, number: int) -> Tensor:
    return next(islice(convert(name, entry.make()), number, None))[1]


def _open_clip(entries: Entries) -> Iterator[tuple[str, Entry]]:
    """By OpenCLIP's names: query, key and value in one, the projection turned."""
    fused: dict[str, dict[str, Entry]] = {}
    for name, entry in entries.items():
        if (found := _QUERY.fullmatch(name)) is not None:
            place = f"transformer.resblocks.{found[1]}.attn.in_proj_{found[3]}"
            fused.setdefault(place, {})[found[2]] = entry
        elif name == _PROJECTION:
            yield "text_projection", Entry(entry.dtype, entry.shape[::-1], partial(_turned, entry))
        else:
            for pattern, replacement in _OPEN_CLIP:
                name = re.sub(pattern, replacement, name)
            yield name, entry
    for place, parts in fused.items():
        ordered = [parts[letter] for letter in "qkv"]
        shape = (sum(entry.shape[0] for entry in ordered), *ordered[0].shape[1:])
        yield place, Entry(ordered[0].dtype, shape, partial(_joined, ordered))


def _turned(entry: Entry) -> Tensor:
    return entry.make().t()


def _joined(entries: Sequence[Entry]) -> Tensor:
    return torch.cat([entry.make() for entry in entries])


def _nested(part: str, name: str) -> str:
    """ComfyUI's own name of an encoder's tensor: the scale is its wrapper's, the rest the network's."""
    return f"{part}.{name}" if name == "logit_scale" else f"{part}.transformer.{name}"
