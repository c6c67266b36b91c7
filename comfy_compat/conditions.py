"""LATENT and CONDITIONING at the border: ComfyUI's dict and list of `[tensor, dict]`, and ours."""

from collections.abc import Mapping
from typing import Any

import torch

from backend.types import Cond, Conditioning, Latent
from comfy_compat.control import ControlBase, chain_of, uses_of

CONTROL = "control"


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


def pairs_of(conditioning: Conditioning) -> list[Any]:
    """ComfyUI's CONDITIONING."""
    return [condition_pair(cond) for cond in conditioning]


def conditioning_of(value: Any) -> Conditioning:
    """Our CONDITIONING. Raises: TypeError for anything else."""
    if isinstance(value, tuple) and all(isinstance(cond, Cond) for cond in value):
        return value
    return tuple(condition_of(pair) for pair in value)


def condition_pair(cond: Cond) -> list[object]:
    """ComfyUI's `[tensor, dict]`; the dict has `pooled_output` where there is one."""
    options: dict[str, object] = {} if cond.pooled is None else {"pooled_output": cond.pooled}
    options |= {key: _listed(item) for key, item in cond.options.items()}
    uses = cond.options.get(CONTROL)
    if isinstance(uses, tuple):
        options[CONTROL] = chain_of(uses)
    return [cond.tokens, options]


def condition_of(pair: object) -> Cond:
    """Our condition; options that we don't know travel along."""
    match pair:
        case [torch.Tensor() as tokens, dict() as options]:
            pooled = options.get("pooled_output")
            rest = {
                str(key): tuple(item) if isinstance(item, list) else item
                for key, item in options.items()
                if key != "pooled_output"
            }
            if isinstance(control := rest.get(CONTROL), ControlBase):
                rest[CONTROL] = uses_of(control)
            return Cond(tokens, pooled if isinstance(pooled, torch.Tensor) else None, rest)
    raise TypeError(f"a condition is [tensor, dict], and this is a {type(pair).__name__}")


def _listed(item: object) -> object:
    """Tuples of tensors are lists in ComfyUI; an area stays a tuple."""
    if isinstance(item, tuple) and item and all(isinstance(one, torch.Tensor) for one in item):
        return list(item)
    return item
