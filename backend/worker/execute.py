"""What each op does on a device: a function per op that runs whole; the start of one that runs in steps."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor

from backend.components import Weights
from backend.models.denoiser import describe
from backend.models.families.inpainting import CONCAT_IMAGE, CONCAT_MASK
from backend.models.prompt import chunks_of_tokens
from backend.models.style import styled
from backend.models.text import Request, Working, encode_text
from backend.models.upscaler import TILES, upscale_pixels
from backend.models.vae import decode_latent, encode_inpaint, in_units
from backend.ops import (
    AddNoise,
    ApplyStyle,
    DecodeLatent,
    Denoise,
    EmptyLike,
    EncodeInpaint,
    EncodePixels,
    EncodeText,
    EncodeVision,
    ModelSigmas,
    Op,
    PercentSigma,
    ScalePixels,
    Tiles,
    Upscale,
    WithControlText,
    WithMask,
    WithOptions,
    WithPicture,
    field_names,
)
from backend.references import Ref
from backend.resize import resize
from backend.sampling.discretization import sigma_max, sigma_min
from backend.sampling.noise import initial_noise
from backend.sampling.sigmas import model_sigmas
from backend.types import ClipVisionOutput, ComponentId, Cond, Latent, OpKey
from backend.worker.begin import begin, fitted, in_model_units
from backend.worker.bench import Bench, RunNetworks, encoded, of_kind, sized
from backend.worker.conditions import CONTROL_POOLED, CONTROL_TOKENS
from backend.worker.conducted import levels_of
from backend.worker.denoise import Denoising
from backend.worker.exchange import Outputs, Value
from backend.worker.hooks import Encoding, encodings
from backend.worker.predictions import prediction_of

T = TypeVar("T")
# where memory is short
_SMALLER = tuple(dataclasses.replace(TILES, size=TILES.size // factor) for factor in (2, 4))


def execute(op: Op[object], bench: Bench) -> Outputs:
    """Run an op whole. It holds values only (see `concrete`). Returns: its outputs, of one item each.

    Raises: OutOfMemory where nothing helped; what the op raises.
    """
    with torch.inference_mode():
        return ((_WHOLE[type(op)](op, bench),),)


def concrete(value: T, inputs: Mapping[OpKey, Value]) -> T:
    """An op (or a part of one) with every `Ref` in it replaced by the value that it names."""
    return cast(T, _concrete(value, inputs))  # a Ref of a T becomes a T; everything else keeps its type


def needs(value: object) -> Iterator[ComponentId]:
    """What an op, or a part of one, uses of the residents: ids of components and of LoRAs."""
    match value:
        case Weights():
            yield value.id
        case tuple():
            for part in value:
                yield from needs(part)
        case Mapping():  # a condition's options: its ControlNets are there
            for part in value.values():
                yield from needs(part)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for name in field_names(value):
                yield from needs(getattr(value, name))


def start(key: OpKey, op: Denoise, bench: Bench) -> Denoising:
    """Begin a sampling run of an op that holds values only: the model made resident, the first request
    pending.

    Raises: BadFile, UnknownFamily for the model or a LoRA; UnsupportedOption for what can't be honoured.
    """
    networks = RunNetworks(op.guider.model, bench)
    target, layout = networks.target()
    return begin(key, op, target, layout, networks)


def _encode_text(op: EncodeText, bench: Bench) -> tuple[Cond, ...]:
    def encode(found: Encoding, offloaded: bool) -> tuple[Cond, ...]:
        changed = [found.moved(weights) for weights in op.clip.weights]
        encoders = [bench.residents.text_encoder(weights, offloaded) for weights in changed]
        loras = (*op.clip.loras, *found.loras)
        patches = [bench.residents.patches(weights, loras) for weights in changed]
        return encode_text(op.clip.family, list(map(Working, encoders, patches)), request)

    images = tuple(of_kind(Tensor, image) for image in op.images)
    chunks = {part: chunks_of_tokens(tokens) for part, tokens in op.tokens.items()}
    request = Request(
        op.text,
        bench.find_embedding,
        op.texts,
        op.clip.stop_at,
        images,
        frozenset(op.left_out),
        dict(op.clip.options),
        chunks,
    )
    made: list[Cond] = []
    for found in encodings(op.clip.hooks):
        conds = bench.ladder.loaded("encoding a text", partial(encode, found))
        made += [dataclasses.replace(cond, options={**cond.options, **found.options}) for cond in conds]
    return tuple(made)


def _scale_pixels(op: ScalePixels, bench: Bench) -> Tensor:
    pixels = of_kind(Tensor, op.pixels)
    height, width = pixels.shape[1:3]
    factor = math.sqrt(op.total / (width * height))
    wide, high = (round(side * factor / op.multiple) * op.multiple for side in (width, height))
    return resize(pixels.movedim(-1, 1), wide, high, "area").movedim(1, -1)[..., :3]


def _model_sigmas(op: ModelSigmas, bench: Bench) -> Tensor:
    _, layout = describe(op.model.weights)
    prediction = prediction_of(layout, op.model.patches)
    return model_sigmas(op.schedule, prediction.range, levels_of(op.schedule, prediction))


def _percent_sigma(op: PercentSigma, bench: Bench) -> float:
    _, layout = describe(op.model.weights)
    noise = prediction_of(layout, op.model.patches).range
    if op.inside and op.percent in (0.0, 1.0):
        return sigma_max(noise) if op.percent == 0.0 else sigma_min(noise)
    return noise.percent_to_sigma(op.percent)


def _add_noise(op: AddNoise, bench: Bench) -> Latent:
    latent, sigmas = of_kind(Latent, op.latent), of_kind(Tensor, op.sigmas)
    if len(sigmas) == 0:
        return latent
    _, layout = describe(op.model.weights)
    samples = fitted(latent.samples.float(), layout.latent)
    noise = torch.zeros_like(samples)
    if op.noise.enabled:
        noise = initial_noise(samples.shape, op.noise.seed, latent.batch_index)
    level = (sigmas[0] - sigmas[-1]).abs() if len(sigmas) > 1 else sigmas[0]
    initial = in_model_units(samples, layout.latent)
    noised = prediction_of(layout, op.model.patches).noise_scaling(level, noise, initial)
    noised = layout.latent.from_model(noised)
    return dataclasses.replace(latent, samples=noised.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))


def _encode_inpaint(op: EncodeInpaint, bench: Bench) -> Latent:
    pixels, mask = of_kind(Tensor, op.pixels), of_kind(Tensor, op.mask)

    def encode(tiles: Tiles | None) -> Latent:
        vae = in_units(bench.residents.vae(op.vae.weights), op.vae.tiny)
        bench.ladder.memory.claim(sized("encoding", pixels), vae.encoding_bytes(pixels.shape, tiles))
        return encode_inpaint(vae, pixels, mask, op.grow, tiles, op.soft)

    return bench.ladder.tiled(sized("encoding", pixels), None, encode)


def _with_options(op: WithOptions, bench: Bench) -> tuple[Cond, ...]:
    made = []
    for cond in of_kind(tuple, op.conditioning):
        given = {name: _tensor(value) for name, value in op.options.items()}
        options = {**of_kind(Cond, cond).options, **given}
        for name, value in op.appended.items():
            options[name] = (*of_kind(tuple, options.get(name, ())), _tensor(value))
        made.append(dataclasses.replace(cond, options=options))
    return tuple(made)


def _tensor(value: object) -> object:
    """Conditions hold a latent's samples."""
    return value.samples if isinstance(value, Latent) else value


def _with_control_text(op: WithControlText, bench: Bench) -> tuple[Cond, ...]:
    text = of_kind(Cond, of_kind(tuple, op.text)[0])
    options = {CONTROL_TOKENS: text.tokens, CONTROL_POOLED: text.pooled}
    conditions = (of_kind(Cond, cond) for cond in of_kind(tuple, op.conditioning))
    return tuple(dataclasses.replace(cond, options={**cond.options, **options}) for cond in conditions)


def _empty_like(op: EmptyLike, bench: Bench) -> Latent:
    return Latent(torch.zeros_like(of_kind(Latent, op.latent).samples))


def _with_picture(op: WithPicture, bench: Bench) -> tuple[Cond, ...]:
    picture = of_kind(Latent, op.picture)
    options = {CONCAT_IMAGE: picture.samples, CONCAT_MASK: picture.noise_mask}
    conditions = (of_kind(Cond, cond) for cond in of_kind(tuple, op.conditioning))
    return tuple(dataclasses.replace(cond, options={**cond.options, **options}) for cond in conditions)


def _with_mask(op: WithMask, bench: Bench) -> Latent:
    return dataclasses.replace(of_kind(Latent, op.latent), noise_mask=of_kind(Latent, op.source).noise_mask)


def _decode_latent(op: DecodeLatent, bench: Bench) -> Tensor:
    latent = of_kind(Latent, op.latent)
    what = f"decoding a latent of shape {list(latent.samples.shape)}"

    def decode(tiles: Tiles | None) -> Tensor:
        vae = in_units(bench.residents.vae(op.vae.weights), op.vae.tiny)
        if latent.samples.ndim >= 4:  # others are refused
            bench.ladder.memory.claim(what, vae.decoding_bytes(latent.samples.shape, tiles))
        return decode_latent(vae, latent, tiles)

    return bench.ladder.tiled(what, op.tiles, decode)


def _upscale(op: Upscale, bench: Bench) -> Tensor:
    pixels = of_kind(Tensor, op.image)

    def upscale(tiles: Tiles | None) -> Tensor:
        tiles = tiles or TILES
        upscaler = bench.residents.upscaler(op.model.weights)
        needed = upscaler.working_bytes(pixels.shape, tiles)
        bench.ladder.memory.claim(sized("enlarging", pixels), needed)
        return upscale_pixels(upscaler, pixels, tiles)

    return bench.ladder.tiled(sized("enlarging", pixels), None, upscale, _SMALLER)


def _encode_vision(op: EncodeVision, bench: Bench) -> ClipVisionOutput:
    image = of_kind(Tensor, op.image)

    def encode() -> ClipVisionOutput:
        return bench.residents.clip_vision(op.clip_vision.weights).encode(image, op.crop)

    return bench.ladder.attempt(sized("encoding", image), encode)


def _apply_style(op: ApplyStyle, bench: Bench) -> tuple[Cond, ...]:
    vision = of_kind(ClipVisionOutput, op.vision)

    def make() -> Tensor:
        return bench.residents.style_model(op.style_model.weights).tokens(vision)

    tokens = bench.ladder.attempt("applying a style model", make)
    conditions = (of_kind(Cond, cond) for cond in of_kind(tuple, op.conditioning))
    return tuple(styled(cond, tokens, op.strength, op.biased) for cond in conditions)


_WHOLE: Mapping[type, Callable[..., object]] = {
    EncodeText: _encode_text,
    ScalePixels: _scale_pixels,
    ModelSigmas: _model_sigmas,
    PercentSigma: _percent_sigma,
    AddNoise: _add_noise,
    EncodePixels: encoded,
    EncodeInpaint: _encode_inpaint,
    WithOptions: _with_options,
    EncodeVision: _encode_vision,
    ApplyStyle: _apply_style,
    WithControlText: _with_control_text,
    EmptyLike: _empty_like,
    WithPicture: _with_picture,
    WithMask: _with_mask,
    DecodeLatent: _decode_latent,
    Upscale: _upscale,
}


def _concrete(value: object, inputs: Mapping[OpKey, Value]) -> object:
    match value:
        case Ref(key=key, slot=slot, item=item):
            return inputs[key].get()[slot][item]
        case tuple():
            return tuple(_concrete(part, inputs) for part in value)
        case dict():
            return {name: _concrete(part, inputs) for name, part in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    changed = {name: new for name, old in fields.items() if (new := _concrete(old, inputs)) is not old}
    return dataclasses.replace(value, **changed) if changed else value
