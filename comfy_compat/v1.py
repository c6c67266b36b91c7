"""A classic node class (INPUT_TYPES, RETURN_TYPES, FUNCTION) -> NodeSpec."""

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backend.node import Combo, InputSpec, NodeSpec, OutputSpec, Result
from comfy_compat.graphs import ExecutionBlocker
from comfy_compat.values import hand_out, take_in

log = logging.getLogger(__name__)
Declared = Mapping[str, Mapping[str, Any]]  # what INPUT_TYPES returns
HIDDEN = frozenset(
    "PROMPT DYNPROMPT EXTRA_PNGINFO UNIQUE_ID AUTH_TOKEN_COMFY_ORG API_KEY_COMFY_ORG".split()  # noqa: SIM905
)


class BadClass(TypeError):
    """A class that is no node: it lacks something that ComfyUI asks of one."""


def spec_of(name: str, cls: type, module: str, title: str | None = None) -> NodeSpec:
    """The spec of a classic class. title: what the menu calls it.

    Raises: BadClass; whatever INPUT_TYPES raises.
    """
    node: Any = cls
    for needed in ("INPUT_TYPES", "RETURN_TYPES", "FUNCTION"):
        if not hasattr(node, needed):
            raise BadClass(f"Node class {name} has no {needed}. A node needs it: see ComfyUI's custom nodes.")
    declared: Declared = node.INPUT_TYPES()
    validator = getattr(node, "VALIDATE_INPUTS", None)
    outputs = tuple(_outputs(node))
    return NodeSpec(
        name=name,
        function=_function(node, declared, outputs),
        kind="value",
        category=str(getattr(node, "CATEGORY", "sd")),
        inputs=tuple(_inputs(node, declared)),
        outputs=outputs,
        display_name=title or name,
        description=str(getattr(node, "DESCRIPTION", "") or ""),
        module=module,
        hidden={key: kind for key, kind in declared.get("hidden", {}).items() if _is_hidden(kind)},
        output_node=getattr(node, "OUTPUT_NODE", False) is True,
        input_is_list=bool(getattr(node, "INPUT_IS_LIST", False)),
        fingerprint=_fingerprint(node) if hasattr(node, "IS_CHANGED") else None,
        validate=validator,
        validates=_handled(validator, declared) if validator is not None else (),
        per_id=bool(getattr(node, "NOT_IDEMPOTENT", False)),
        serial=True,
        extra={"info": lambda: class_info(name, cls, module, title)},
    )


def class_info(name: str, cls: type, module: str, title: str | None) -> dict[str, object]:
    """What /object_info says of a classic class: what it declares at this moment, untouched.

    Raises: whatever INPUT_TYPES raises.
    """
    node: Any = cls
    declared: Declared = node.INPUT_TYPES()
    returned = node.RETURN_TYPES
    info: dict[str, object] = {
        "input": declared,
        "input_order": {section: list(inputs) for section, inputs in declared.items()},
        "output": returned,
        "output_is_list": getattr(node, "OUTPUT_IS_LIST", [False] * len(returned)),
        "output_name": getattr(node, "RETURN_NAMES", returned),
        "name": name,
        "display_name": title or name,
        "description": getattr(node, "DESCRIPTION", ""),
        "python_module": module,
        "category": getattr(node, "CATEGORY", "sd"),
        "output_node": getattr(node, "OUTPUT_NODE", False) is True,
    }
    if hasattr(node, "OUTPUT_TOOLTIPS"):
        info["output_tooltips"] = node.OUTPUT_TOOLTIPS
    info |= {key.lower(): True for key in ("DEPRECATED", "EXPERIMENTAL") if getattr(node, key, False)}
    if hasattr(node, "API_NODE"):
        info["api_node"] = node.API_NODE
    if getattr(node, "SEARCH_ALIASES", None):
        info["search_aliases"] = list(node.SEARCH_ALIASES)
    return info


def _is_hidden(kind: object) -> bool:
    return isinstance(kind, str) and kind in HIDDEN


def _inputs(node: Any, declared: Declared) -> Iterator[InputSpec]:
    """Required, then optional inputs; then those declared as hidden that the prompt itself may fill."""
    for section in ("required", "optional"):
        for name, config in declared.get(section, {}).items():
            yield _input(node, section, name, config)
    for name, config in declared.get("hidden", {}).items():
        if not _is_hidden(config):
            yield InputSpec(name, "*", {}, optional=True)


def _input(node: Any, section: str, name: str, config: object) -> InputSpec:
    type_, options = _config(config)
    choice = None
    wire = type_
    if isinstance(type_, (list, tuple)):
        choice, wire = Combo(among=_choices(node, section, name), style="list"), "COMBO"
    elif type_ == "COMBO" and "options" in options:
        choice = Combo(among=_choices(node, section, name), style="COMBO")
        options = {key: value for key, value in options.items() if key != "options"}
    assert isinstance(wire, str)
    return InputSpec(name, wire, options, section == "optional", choice, bool(options.get("lazy")))


def _config(config: object) -> tuple[object, dict[str, object]]:
    """(type, options) of `(type,)`, `(type, options)` or a bare type."""
    match config:
        case (list() | tuple() | str() as type_, Mapping() as options):
            return type_, dict(options)
        case (list() | tuple() | str() as type_, *_):
            return type_, {}
        case str():
            return config, {}
    raise BadClass(f"An input is declared as (type, options), not as {config!r}.")


def _choices(node: Any, section: str, name: str) -> Callable[[object], Sequence[str]]:
    """The options of a combo as of when they are asked for: classes list folders in INPUT_TYPES."""

    def now(storage: object) -> Sequence[str]:
        declared = node.INPUT_TYPES()
        type_, options = _config(declared[section][name])
        among = type_ if isinstance(type_, (list, tuple)) else options.get("options", ())
        assert isinstance(among, (list, tuple))
        return among

    return now


def _outputs(node: Any) -> Iterator[OutputSpec]:
    types = node.RETURN_TYPES
    names = getattr(node, "RETURN_NAMES", None) or ()
    lists = getattr(node, "OUTPUT_IS_LIST", None) or ()
    tooltips = getattr(node, "OUTPUT_TOOLTIPS", None) or ()
    for i, type_ in enumerate(types):
        yield OutputSpec(
            tuple(type_) if isinstance(type_, (list, tuple)) else type_,
            str(names[i]) if i < len(names) else str(type_),
            bool(lists[i]) if i < len(lists) else False,
            tooltips[i] if i < len(tooltips) else None,
        )


def _function(node: Any, declared: Declared, outputs: tuple[OutputSpec, ...]) -> Callable[..., object]:
    """What the host calls: ComfyUI's shapes in, ComfyUI's shapes out, on an object that lives on."""
    wires = {name: _config(c)[0] for s in ("required", "optional") for name, c in declared.get(s, {}).items()}
    made: list[object] = []

    def call(**inputs: object) -> object:
        if not made:
            made.append(node())
        given = {name: hand_out(value, wires.get(name, "*")) for name, value in inputs.items()}
        return returned_of(getattr(made[0], node.FUNCTION)(**given), outputs)

    return call


def returned_of(returned: object, outputs: tuple[OutputSpec, ...]) -> object:
    """What a classic function returned (a tuple, or a dict with `ui` and `result`) as the host takes it."""
    ui = None
    if isinstance(returned, dict):
        ui = returned.get("ui")
        returned = returned.get("result", ())
    if isinstance(returned, ExecutionBlocker):
        returned = (returned,) * len(outputs)
    values = list(returned) if returned is not None else []  # type: ignore[call-overload]  # a tuple or list
    values = (values + [None] * len(outputs))[: len(outputs)]
    taken = tuple(_taken(value, output) for value, output in zip(values, outputs, strict=True))
    return Result(taken, ui)


def _taken(value: object, output: OutputSpec) -> object:
    if output.is_list and isinstance(value, (list, tuple)):
        return [take_in(item, output.type) for item in value]
    return take_in(value, output.type)


def _fingerprint(node: Any) -> Callable[..., object]:
    def fingerprint(**literals: object) -> object:
        try:
            return node.IS_CHANGED(**literals)
        except Exception:  # around a custom node
            log.warning("IS_CHANGED of %s raised; the node runs each time", node.__name__, exc_info=True)
            return math.nan

    return fingerprint


def _handled(validator: Callable[..., object], declared: Declared) -> tuple[str, ...]:
    """The inputs that a validator names; all where it takes any."""
    parameters = inspect.signature(validator).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        named = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
        inputs = [name for s in ("required", "optional") for name in declared.get(s, {})]
        return tuple(dict.fromkeys([*named, *inputs]))
    return tuple(p.name for p in parameters)
