"""A classic node class (INPUT_TYPES, RETURN_TYPES, FUNCTION) -> NodeSpec."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backend.node import Combo, InputSpec, NodeSpec, OutputSpec, Result
from backend.types import Blocked
from comfy_compat.graphs import ExecutionBlocker
from comfy_compat.values import hand_out, take_in

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
    outputs = tuple(outputs_of(node))
    method = getattr(node, node.FUNCTION, None)
    if not callable(method):
        raise BadClass(f"Node class {name} names {node.FUNCTION!r} as its FUNCTION, and has no such method.")
    wires = wires_of(declared)
    validator = getattr(node, "VALIDATE_INPUTS", None)
    validates, all_inputs = ((), False) if validator is None else handled(validator)
    return NodeSpec(
        name=name,
        function=_function(method, node.FUNCTION, wires, outputs),
        kind="value",
        category=str(getattr(node, "CATEGORY", "sd")),
        inputs=tuple(inputs_of(node, declared)),
        outputs=outputs,
        display_name=title or name,
        description=str(getattr(node, "DESCRIPTION", "") or ""),
        module=module,
        hidden={key: kind for key, kind in declared.get("hidden", {}).items() if _is_hidden(kind)},
        output_node=getattr(node, "OUTPUT_NODE", False) is True,
        input_is_list=bool(getattr(node, "INPUT_IS_LIST", False)),
        fingerprint=getattr(node, "IS_CHANGED", None),
        validate=validator,
        validates=validates,
        validates_all=all_inputs,
        check_lazy=_check_lazy(node, wires) if hasattr(node, "check_lazy_status") else None,
        make=cls,
        open_inputs=open_inputs_of(declared),
        is_async=inspect.iscoroutinefunction(method),
        dynamic=True,
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


def inputs_of(node: Any, declared: Declared) -> Iterator[InputSpec]:
    """Required, then optional inputs, with options as the class declares them."""
    for section in ("required", "optional"):
        for name, config in declared.get(section, {}).items():
            yield _input(node, section, name, config)


def _input(node: Any, section: str, name: str, config: object) -> InputSpec:
    type_, options = config_of(config)
    choice = None
    wire = type_
    if isinstance(type_, (list, tuple)):
        choice, wire = Combo(among=_choices(node, section, name), style="list"), "COMBO"
    elif type_ == "COMBO" and "options" in options:
        choice = Combo(among=_choices(node, section, name), style="COMBO")
        options = {key: value for key, value in options.items() if key != "options"}
    assert isinstance(wire, str)
    lazy, raw = bool(options.get("lazy")), bool(options.get("rawLink"))
    return InputSpec(name, wire, options, section == "optional", choice, lazy, raw)


def config_of(config: object) -> tuple[object, dict[str, object]]:
    """(type, options) of `(type,)`, `(type, options)` or a bare type. Raises: BadClass."""
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
        type_, options = config_of(node.INPUT_TYPES()[section][name])
        among = type_ if isinstance(type_, (list, tuple)) else options.get("options", ())
        assert isinstance(among, (list, tuple))
        return among

    return now


def open_inputs_of(declared: Declared) -> Callable[[str], InputSpec | None] | None:
    """What an input is that no listing shows: packs pass dicts that have every key, or list hidden inputs
    that the prompt itself fills.
    """
    optional, hidden = declared.get("optional", {}), declared.get("hidden", {})

    def find(name: str) -> InputSpec | None:
        if name in hidden and not _is_hidden(hidden[name]):
            return InputSpec(name, "*", {}, optional=True)
        if name not in optional:
            return None
        try:
            type_, options = config_of(optional[name])
        except KeyError:  # it claims every key, and has none of them
            type_, options = "*", {}
        wire = type_ if isinstance(type_, str) else "COMBO"
        return InputSpec(name, wire, options, optional=True, raw_link=bool(options.get("rawLink")))

    unlisted = any(not _is_hidden(kind) for kind in hidden.values())
    return find if unlisted or type(optional).__contains__ is not dict.__contains__ else None


def wires_of(declared: Declared) -> dict[str, object]:
    """The declared type of each input; packs' wildcards, which are equal to everything, as the plain text."""
    sections = (declared.get(section, {}).items() for section in ("required", "optional"))
    types = {name: config_of(config)[0] for section in sections for name, config in section}
    return {name: str(type_) if isinstance(type_, str) else type_ for name, type_ in types.items()}


def outputs_of(node: Any) -> Iterator[OutputSpec]:
    """Outputs as the class lists them, names and marks where it has any."""
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


def handed_out(inputs: Mapping[str, object], wires: Mapping[str, object], lists: bool) -> dict[str, object]:
    """Inputs in ComfyUI's shapes; lists: each is a list of values."""

    def one(name: str, value: object) -> object:
        wire = wires.get(name, "*")
        if lists and isinstance(value, list):
            return [hand_out(item, wire) for item in value]
        return hand_out(value, wire)

    return {name: one(name, value) for name, value in inputs.items()}


def _function(
    method: Callable[..., object], name: str, wires: Mapping[str, object], outputs: tuple[OutputSpec, ...]
) -> Callable[..., object]:
    """What the host calls: ComfyUI's shapes in, ours out, on the node's object."""

    async def call_async(node: object, **inputs: object) -> object:
        return returned_of(await getattr(node, name)(**_given(node, inputs, wires)), outputs)

    def call(node: object, **inputs: object) -> object:
        return returned_of(getattr(node, name)(**_given(node, inputs, wires)), outputs)

    return call_async if inspect.iscoroutinefunction(method) else call


def _given(node: object, inputs: Mapping[str, object], wires: Mapping[str, object]) -> dict[str, object]:
    return handed_out(inputs, wires, bool(getattr(node, "INPUT_IS_LIST", False)))


def _check_lazy(cls: Any, wires: Mapping[str, object]) -> Callable[..., object]:
    def check(node: Any, **inputs: object) -> object:
        return node.check_lazy_status(**_given(node, inputs, wires))

    return check


def returned_of(returned: object, outputs: tuple[OutputSpec, ...]) -> object:
    """What a classic function returned (a tuple, or a dict of `ui`, `result` ...) as the host takes it."""
    ui = expand = None
    if isinstance(returned, dict):
        ui, expand = returned.get("ui"), returned.get("expand")
        returned = returned.get("result", ())
    if isinstance(returned, ExecutionBlocker):
        returned = (returned,) * len(outputs)
    values = list(returned) if returned is not None else []  # type: ignore[call-overload]  # a tuple or list
    values = (values + [None] * len(outputs))[: len(outputs)]
    taken = tuple(_taken(value, output) for value, output in zip(values, outputs, strict=True))
    return Result(taken, ui, expand)


def _taken(value: object, output: OutputSpec) -> object:
    if isinstance(value, ExecutionBlocker):
        return Blocked(value.message)
    if output.is_list and isinstance(value, (list, tuple)):
        one = OutputSpec(output.type, output.name)
        return [_taken(item, one) for item in value]
    return take_in(value, str(output.type) if isinstance(output.type, str) else output.type)


def handled(validator: Callable[..., object]) -> tuple[tuple[str, ...], bool]:
    """The inputs that a validator names, and whether it takes any other too."""
    parameters = inspect.signature(validator).parameters.values()
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    star = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return tuple(p.name for p in parameters if p.kind not in star), open_ended
