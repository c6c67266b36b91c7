"""How a model is computed: its number format, its compilation."""

from dataclasses import replace
from typing import Annotated

from backend.node import Choice, node
from backend.references import Model
from nodes.text import one_of


@node("ModelComputeDtype", category="advanced/debug/model", module="comfy_extras.nodes_model_advanced")
def model_compute_dtype(
    *, model: Model, dtype: Annotated[str, Choice(("default", "fp32", "fp16", "bf16"))]
) -> Model:
    """The model computed in a number format; "default" is what suits the device."""
    precision = "" if dtype == "default" else dtype
    return replace(model, weights=replace(model.weights, precision=precision))


@node(
    "TorchCompileModel",
    category="_for_testing",
    module="comfy_extras.nodes_torch_compile",
    experimental=True,
)
def torch_compile_model(*, model: Model, backend: Annotated[str, one_of("inductor", "cudagraphs")]) -> Model:
    """The model as it is: workers choose how they compute, and what comes out stays the same."""
    return model
