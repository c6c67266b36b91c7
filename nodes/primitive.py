"""Plain values as nodes."""

import json
import sys
from typing import Annotated

from backend.node import Boolean, Float, Int, Result, String, node
from backend.types import AnyValue, Cond, Latent

CATEGORY = "utils/primitive"
MODULE = "comfy_extras.nodes_primitive"
LIMIT = sys.maxsize


@node("PrimitiveString", category=CATEGORY, display_name="String", module=MODULE)
def primitive_string(*, value: Annotated[str, String(multiline=False)]) -> str:
    """A text."""
    return value


@node("PrimitiveStringMultiline", category=CATEGORY, display_name="String (Multiline)", module=MODULE)
def primitive_string_multiline(*, value: Annotated[str, String(multiline=True)]) -> str:
    """A text of several lines."""
    return value


@node("PrimitiveInt", category=CATEGORY, display_name="Int", module=MODULE)
def primitive_int(*, value: Annotated[int, Int(-LIMIT, LIMIT, control_after_generate=True)]) -> int:
    """A whole number."""
    return value


@node("PrimitiveFloat", category=CATEGORY, display_name="Float", module=MODULE)
def primitive_float(*, value: Annotated[float, Float(-LIMIT, LIMIT)]) -> float:
    """A number."""
    return value


@node("PrimitiveBoolean", category=CATEGORY, display_name="Boolean", module=MODULE)
def primitive_boolean(*, value: Annotated[bool, Boolean()]) -> bool:
    """Yes or no."""
    return value


@node(
    "PreviewAny",
    category="utils",
    display_name="Preview Any",
    module="comfy_extras.nodes_preview_any",
    output_node=True,
)
def preview_any(*, source: AnyValue) -> Result:
    """Any value as text: JSON where it can be, else as Python shows it."""
    return Result(ui={"text": [shown(source)]})


def shown(value: object) -> str:
    """How PreviewAny shows a value."""
    if value is None or isinstance(value, str | int | float):
        return str(value)
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return str(_as_comfyui_has_it(value))


def _as_comfyui_has_it(value: object) -> object:
    """A latent as ComfyUI's dict, a conditioning as its pairs of tensor and dict."""
    match value:
        case Latent():
            known = {
                "noise_mask": value.noise_mask,
                "batch_index": value.batch_index and list(value.batch_index),
            }
            there = {name: given for name, given in known.items() if given is not None}
            return {"samples": value.samples, **value.extra, **there}
        case (Cond(), *_):
            return [_as_comfyui_has_it(cond) for cond in value]
        case Cond():
            pooled = {} if value.pooled is None else {"pooled_output": value.pooled}
            return [value.tokens, {**pooled, **value.options}]
    return value
