"""What each op does on a device: a function per op that runs whole; the start of one that runs in steps."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from backend.models.denoiser import describe
from backend.models.text import encode_text
from backend.models.vae import decode_latent, encode_inpaint, encode_pixels
from backend.ops import DecodeLatent, Denoise, EncodeInpaint, EncodePixels, EncodeText, ModelSigmas, Op
from backend.references import Ref
from backend.sampling.sigmas import basic_sigmas
from backend.types import Cond, Latent, OpKey
from backend.worker.begin import begin, prediction_of
from backend.worker.denoise import Denoising, Target
from backend.worker.exchange import Outputs, Value
from backend.worker.residents import Residents

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bench:
    """What ops are done with.

    find_embedding: the name in a prompt -> the path of its file, None if there is none.
    """

    residents: Residents
    find_embedding: Callable[[str], str | None]


def execute(op: Op[object], bench: Bench) -> Outputs:
    """Run an op whole. It holds values only (see `concrete`). Returns: its outputs, of one item each."""
    with torch.inference_mode():
        return ((_WHOLE[type(op)](op, bench),),)


def concrete(value: T, inputs: Mapping[OpKey, Value]) -> T:
    """An op (or a part of one) with every `Ref` in it replaced by the value that it names."""
    return cast(T, _concrete(value, inputs))  # a Ref of a T becomes a T; everything else keeps its type


def start(key: OpKey, op: Denoise, bench: Bench) -> Denoising:
    """Begin a sampling run of an op that holds values only: the model made resident, the first request
    pending.

    Raises: BadFile, UnknownFamily for the model or a LoRA; UnsupportedOption for what can't be honoured.
    """
    model = op.guider.model
    denoiser = bench.residents.denoiser(model.weights)
    target = Target(
        network=denoiser,
        prediction=prediction_of(denoiser.layout),
        format=denoiser.layout.latent,
        device=denoiser.device,
        patches=bench.residents.patches(model.weights, model.loras),
    )
    return begin(key, op, target)


def _encode_text(op: EncodeText, bench: Bench) -> tuple[Cond, ...]:
    encoder = bench.residents.text_encoder(op.clip.weights)
    patches = bench.residents.patches(op.clip.weights, op.clip.loras)
    return encode_text(encoder, op.clip, op.text, bench.find_embedding, patches)


def _model_sigmas(op: ModelSigmas, bench: Bench) -> Tensor:
    _, layout = describe(op.model.weights)
    schedule = op.schedule
    return basic_sigmas(schedule.scheduler, schedule.steps, schedule.denoise, prediction_of(layout).range)


def _encode_pixels(op: EncodePixels, bench: Bench) -> Latent:
    return encode_pixels(bench.residents.vae(op.vae.weights), _is(Tensor, op.pixels), op.tiles)


def _encode_inpaint(op: EncodeInpaint, bench: Bench) -> Latent:
    vae = bench.residents.vae(op.vae.weights)
    return encode_inpaint(vae, _is(Tensor, op.pixels), _is(Tensor, op.mask), op.grow)


def _decode_latent(op: DecodeLatent, bench: Bench) -> Tensor:
    return decode_latent(bench.residents.vae(op.vae.weights), _is(Latent, op.latent), op.tiles)


_WHOLE: Mapping[type, Callable[..., object]] = {
    EncodeText: _encode_text,
    ModelSigmas: _model_sigmas,
    EncodePixels: _encode_pixels,
    EncodeInpaint: _encode_inpaint,
    DecodeLatent: _decode_latent,
}


def _is(kind: type[T], value: object) -> T:
    """The value, which must be of that kind: a third-party node may have made another."""
    if not isinstance(value, kind):
        raise TypeError(
            f"a {kind.__name__} is needed here, and the node before gave a {type(value).__name__}"
        )
    return value


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
