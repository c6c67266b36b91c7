"""A class of ComfyUI's V3 schema (`define_schema`, `execute`) -> NodeSpec."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from backend.node import NodeSpec, OutputSpec
from backend.types import Blocked
from comfy_compat.v1 import (
    Declared,
    handed_out,
    handled,
    inputs_of,
    open_inputs_of,
    outputs_of,
    returned_of,
    wires_of,
)

_BASES = ("ComfyNode", "_ComfyNodeBaseInternal", "_ComfyNodeInternal")


def is_v3(cls: object) -> bool:
    """Whether a class is one of the V3 schema."""
    return isinstance(cls, type) and hasattr(cls, "define_schema") and hasattr(cls, "GET_NODE_INFO_V1")


def spec_of_v3(cls: type, module: str) -> NodeSpec:
    """The spec of a V3 class; its schema says how it is called. Raises: whatever its schema raises."""
    node: Any = cls
    schema = node.GET_SCHEMA()
    declared: Declared = node.INPUT_TYPES(include_hidden=False)
    outputs = tuple(outputs_of(node))
    wires = wires_of(declared)
    hidden = {h.name: h.value for h in schema.hidden or ()}
    validator = _own(node, "validate_inputs")
    validates, all_inputs = ((), False) if validator is None else handled(validator)
    return NodeSpec(
        name=schema.node_id,
        function=_function(node, wires, hidden, outputs),
        kind="value",
        category=schema.category,
        inputs=tuple(inputs_of(_Sections(node), declared)),
        outputs=outputs,
        display_name=schema.display_name or schema.node_id,
        description=schema.description,
        module=module,
        hidden=hidden,
        output_node=bool(schema.is_output_node),
        input_is_list=bool(schema.is_input_list),
        fingerprint=_own(node, "fingerprint_inputs"),
        validate=validator,
        validates=validates,
        validates_all=all_inputs,
        check_lazy=_check_lazy(node, wires, hidden) if _own(node, "check_lazy_status") else None,
        make=cls,
        open_inputs=open_inputs_of(declared),
        is_async=inspect.iscoroutinefunction(node.execute),
        dynamic=True,
        per_id=bool(schema.not_idempotent),
        serial=True,
        extra={"info": node.GET_NODE_INFO_V1},
    )


class _Sections:
    """INPUT_TYPES of a V3 class without its hidden inputs, which are no arguments."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def INPUT_TYPES(self) -> Declared:
        declared: Declared = self._node.INPUT_TYPES(include_hidden=False)
        return declared


def _own(node: Any, name: str) -> Callable[..., Any] | None:
    """A method that the class, or a base of the pack's own, defines."""
    for owner in node.mro():
        if owner.__name__ in _BASES and owner.__module__.startswith("comfy_api"):
            return None
        if name in vars(owner):
            method: Callable[..., Any] = getattr(node, name)
            return method
    return None


def _split(
    inputs: Mapping[str, object], hidden: Mapping[str, str], lists: bool
) -> tuple[dict[str, object], dict[str, object]]:
    """(arguments, hidden inputs by kind); where a node takes lists, hidden ones come as lists too."""
    given = {name: value for name, value in inputs.items() if name not in hidden}
    filled = {kind: inputs.get(name) for name, kind in hidden.items()}
    if lists:
        filled = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in filled.items()}
    return given, filled


def _bound(cls: Any, method: str, hidden: dict[str, object]) -> Callable[..., Any]:
    """A class method, bound to a class of this one call, which holds its hidden inputs."""
    bound: Callable[..., Any] = getattr(cls.PREPARE_CLASS_CLONE(hidden), method)
    return bound


def _function(
    cls: Any, wires: Mapping[str, object], hidden: Mapping[str, str], outputs: tuple[OutputSpec, ...]
) -> Callable[..., object]:
    lists = bool(cls.INPUT_IS_LIST)

    def begun(inputs: Mapping[str, object]) -> Any:
        given, filled = _split(inputs, hidden, lists)
        return _bound(cls, cls.FUNCTION, filled)(**handed_out(given, wires, lists))

    async def call_async(node: object, **inputs: object) -> object:
        return _result(await begun(inputs), outputs)

    def call(node: object, **inputs: object) -> object:
        return _result(begun(inputs), outputs)

    return call_async if inspect.iscoroutinefunction(cls.execute) else call


def _check_lazy(cls: Any, wires: Mapping[str, object], hidden: Mapping[str, str]) -> Callable[..., object]:
    lists = bool(cls.INPUT_IS_LIST)

    def check(node: object, **inputs: object) -> object:
        given, filled = _split(inputs, hidden, lists)
        return _bound(cls, "check_lazy_status", filled)(**handed_out(given, wires, lists))

    return check


def _result(output: Any, outputs: tuple[OutputSpec, ...]) -> object:
    """A NodeOutput as the host takes it."""
    if output.block_execution is not None:
        return Blocked(output.block_execution)
    ui = output.ui.as_dict() if hasattr(output.ui, "as_dict") else output.ui
    return returned_of({"result": output.args, "ui": ui, "expand": output.expand}, outputs)
