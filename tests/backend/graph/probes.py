"""The node classes that the recordings of validation were made with, and what validation says of prompts."""

from dataclasses import replace
from typing import Annotated, Any

import pytest

from backend.errors import GraphError, Refused
from backend.graph.parse import parse_prompt
from backend.graph.validate import Validated, validate
from backend.guiders import Sampler
from backend.node import Choice, Int, NodeSpec, Result, node
from backend.registry import Registry
from backend.types import AnyValue, Image
from tests.build import a_node

SAMPLERS = tuple(f"sampler_{n}" for n in range(42))  # as many as were recorded; their names are not shown


@node("EmptyImage", category="image")
def empty_image(
    *,
    width: Annotated[int, Int(1, 16384, step=1)] = 512,
    height: Annotated[int, Int(1, 16384, step=1)] = 512,
    batch_size: Annotated[int, Int(1, 4096)] = 1,
    color: Annotated[int, Int(0, 0xFFFFFF, step=1, display="color")] = 0,
) -> Image:
    raise NotImplementedError


@node("ImageInvert", category="image")
def image_invert(*, image: Image) -> Image:
    raise NotImplementedError


@node("ImageScale", category="image")
def image_scale(
    *,
    image: Image,
    upscale_method: Annotated[str, Choice(["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])],
    width: Annotated[int, Int(0, 16384, step=1)] = 512,
    height: Annotated[int, Int(0, 16384, step=1)] = 512,
    crop: Annotated[str, Choice(["disabled", "center"])],
) -> Image:
    raise NotImplementedError


@node("PreviewImage", category="image", output_node=True)
def preview_image(*, images: Image) -> Result:
    raise NotImplementedError


@node("PrimitiveInt", category="utils")
def primitive_int(*, value: Annotated[int, Int(-(2**63) + 1, 2**63 - 1)]) -> int:
    raise NotImplementedError


@node("KSamplerSelect", category="sampling")
def sampler_select(*, sampler_name: Annotated[str, Choice(SAMPLERS)]) -> Sampler:
    raise NotImplementedError


@node(
    "LoadImage",
    category="image",
    validate=lambda *, image: f"Invalid image file: {image}",
    validates=("image",),
)
def load_image(*, image: Annotated[str, Choice(["there.png"])]) -> Image:
    raise NotImplementedError


@node("ProbeEcho", category="probes", output_node=True)
def probe_echo(*, a: AnyValue, b: AnyValue | None = None) -> AnyValue:
    raise NotImplementedError


def seven_is_bad(*, v: int) -> bool | str:
    if v == 99:
        raise RuntimeError("validator exploded")
    return "seven not allowed" if v == 7 else True


@node("ProbeValidate", category="probes", output_node=True, validate=seven_is_bad, validates=("v",))
def probe_validate(*, v: Annotated[int, Int(0, 3)], combo: Annotated[str, Choice(["a", "b"])]) -> Result:
    raise NotImplementedError


def with_validator(spec: NodeSpec, validate: object, *names: str) -> NodeSpec:
    return replace(spec, validate=validate, validates=names)  # type: ignore[arg-type]


def a_registry(*more: NodeSpec) -> Registry:
    specs = (empty_image, image_invert, image_scale, preview_image, primitive_int, sampler_select, load_image)
    return Registry([*specs, probe_echo, probe_validate, *more])


BAD_IMAGE = a_node("EmptyImage", width=0, height=8, batch_size=1, color=0)
IMAGE = a_node("EmptyImage", width=8, height=8, batch_size=1, color=0)


def check(prompt: object, *more: Any, targets: list[str] | None = None, services: Any = None) -> Validated:
    return validate(parse_prompt(prompt), a_registry(*more), services or {}, targets)


def refusal(prompt: object, *more: Any, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        check(prompt, *more, **options)
    return caught.value


def sole_error(prompt: object, *more: Any, node: str = "1") -> GraphError:
    """The only error of the only wrong node."""
    errors = refusal(prompt, *more).node_errors
    assert list(errors) == [node]
    (error,) = errors[node].errors
    return error


def wire(error: GraphError) -> dict[str, object]:
    return {"type": error.code, "message": error.message, "details": error.details, "extra_info": error.extra}
