"""The border between our values and ComfyUI's shapes, which third-party nodes see and return.

LATENT is a dict, CONDITIONING a list of `[tensor, dict]`; IMAGE, MASK, SIGMAS and plain values are the same.
"""

from collections.abc import Mapping

from backend.deferred import torch
from backend.types import Cond, Latent

Legacy = object  # a value in ComfyUI's shape


def hand_out(value: object, wire: object = "*") -> Legacy:
    """Our value in ComfyUI's shape. wire: the input's declared type, where it has one."""
    match value:
        case Latent():
            return latent_dict(value)
        case tuple() if (value and all(isinstance(c, Cond) for c in value)) or wire == "CONDITIONING":
            return [condition_pair(c) if isinstance(c, Cond) else c for c in value]
        case _:
            return value


def take_in(value: Legacy, wire: object = "*") -> object:
    """A value in ComfyUI's shape as ours. wire: the output's declared type."""
    match value:
        case {"samples": torch.Tensor()} if isinstance(value, dict):
            return latent_of(value)
        case list() if (value and all(map(is_condition, value))) or (wire == "CONDITIONING" and not value):
            return tuple(condition_of(pair) for pair in value)
        case _:
            return value


def latent_dict(latent: Latent) -> dict[str, object]:
    """ComfyUI's LATENT."""
    made: dict[str, object] = {"samples": latent.samples, **latent.extra}
    if latent.noise_mask is not None:
        made["noise_mask"] = latent.noise_mask
    if latent.batch_index is not None:
        made["batch_index"] = list(latent.batch_index)
    return made


def latent_of(value: Mapping[str, object]) -> Latent:
    """Our latent; keys that we don't know travel along."""
    known = ("samples", "noise_mask", "batch_index")
    samples, mask, index = (value.get(name) for name in known)
    assert isinstance(samples, torch.Tensor)
    return Latent(
        samples,
        mask if isinstance(mask, torch.Tensor) else None,
        tuple(int(i) for i in index) if isinstance(index, (list, tuple)) else None,
        {key: item for key, item in value.items() if key not in known},
    )


def is_condition(value: object) -> bool:
    """Whether a value is one of CONDITIONING's `[tensor, dict]`."""
    match value:
        case [torch.Tensor(), dict()]:
            return isinstance(value, (list, tuple))
    return False


def condition_pair(cond: Cond) -> list[object]:
    """ComfyUI's `[tensor, dict]`; the dict has `pooled_output` where there is one."""
    pooled = {} if cond.pooled is None else {"pooled_output": cond.pooled}
    return [cond.tokens, {**pooled, **cond.options}]


def condition_of(pair: object) -> Cond:
    """Our condition; options that we don't know travel along."""
    match pair:
        case [torch.Tensor() as tokens, dict() as options]:
            pooled = options.get("pooled_output")
            rest = {str(key): item for key, item in options.items() if key != "pooled_output"}
            return Cond(tokens, pooled if isinstance(pooled, torch.Tensor) else None, rest)
    raise TypeError(f"a condition is [tensor, dict], and this is a {type(pair).__name__}")
