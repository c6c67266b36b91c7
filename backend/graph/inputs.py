"""The inputs of one node held against its class: links, types, values, and the class's own validator."""

import logging
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from inspect import isawaitable
from typing import TypeAlias

from backend.errors import NodeError
from backend.graph.parse import BadLink, Input, Link, Prompt, PromptNode
from backend.graph.questions import hidden, listed, literals
from backend.guiders import REFERENCES
from backend.node import InputSpec, NodeSpec
from backend.storage import Storage
from backend.types import DATA_WIRES, NodeId
from backend.values import frozen

log = logging.getLogger(__name__)

_LONGEST_LIST = 20  # options that an error repeats
_CASTS: Mapping[str, Callable[[object], object]] = {
    "INT": int,  # type: ignore[dict-item]  # what int can't take raises, and that is the answer
    "FLOAT": float,  # type: ignore[dict-item]  # likewise
    "STRING": str,
    "BOOLEAN": bool,
}
# What only a node can make: no literal stands for it.
_NO_WIDGET = DATA_WIRES | {kind.wire for kind in REFERENCES if hasattr(kind, "wire")}
Types: TypeAlias = str | tuple[str, ...]
Settle: TypeAlias = Callable[[Awaitable[object]], object]  # runs a coroutine to its end


@frozen
class Fault:
    """What made looking at a node impossible. It is worded by where the node stands (`validate._worded`)."""

    type: str
    text: str
    traceback: tuple[str, ...] = ()  # where `text` is ComfyUI's and tells a reader little: what it means


@frozen
class Checked:
    """A node looked at: its inputs with values coerced, and what is wrong with them."""

    inputs: Mapping[str, Input]
    errors: tuple[NodeError, ...] = ()
    faults: tuple[Fault, ...] = ()


class _Problem(Exception):
    """An input is wrong in the way that `error` says."""

    def __init__(self, error: NodeError) -> None:
        self.error = error
        super().__init__(str(error))


class _Unreadable(Exception):
    """A link leads nowhere."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.text)


@frozen
class Surroundings:
    """What one validation looks things up in. choices: options of combos, read once."""

    prompt: Prompt
    specs: Mapping[NodeId, NodeSpec]
    services: Mapping[type, object]
    choices: dict[int, list[str]] = field(default_factory=dict)
    settle: Settle | None = None

    def choices_of(self, wants: InputSpec) -> list[str]:
        """The options of a combo as of now; none for other inputs."""
        if wants.choice is None:
            return []
        known = self.choices.get(id(wants.choice))
        if known is None:
            storage = self.services.get(Storage)
            known = wants.choice.now(storage)  # type: ignore[arg-type]  # fixed lists do without
            self.choices[id(wants.choice)] = known
        return known

    def config(self, wants: InputSpec) -> list[object]:
        return wants.config(self.choices_of(wants))


def check(node: PromptNode, spec: NodeSpec, around: Surroundings) -> Checked:
    """Look at one node; nodes it is linked to are looked at on their own."""
    if node.bare:
        fault = Fault("KeyError", "'inputs'", ("The node has no `inputs`: send {} where it takes none.\n",))
        return Checked(node.inputs, faults=(fault,))
    coerced: dict[str, Input] = {}
    received: dict[str, Types] = {}
    errors: list[NodeError] = []
    faults: list[Fault] = []
    for wants in spec.inputs:
        try:
            _check_input(node, spec, wants, coerced, received, around)
        except _Problem as problem:
            errors.append(problem.error)
        except _Unreadable as unreadable:
            faults.append(unreadable.fault)
    faults += _stray_links(node, spec, around)
    inputs = {**node.inputs, **coerced} if coerced else node.inputs
    if spec.validate is not None and not errors and not faults:
        refusals, raised = _own_validator(node, spec, inputs, received, around)
        errors += refusals
        faults += raised
    return Checked(inputs, tuple(errors), tuple(faults))


def _check_input(
    node: PromptNode,
    spec: NodeSpec,
    wants: InputSpec,
    coerced: dict[str, Input],
    received: dict[str, Types],
    around: Surroundings,
) -> None:
    """Writes a value that coercion changed, and a link's type. Raises: _Problem, _Unreadable."""
    name = wants.name
    if name not in node.inputs:
        if wants.optional:
            return
        extra = {"input_name": name}
        message = "Required input is missing"
        raise _Problem(NodeError("required_input_missing", node.id, message, name, extra))
    given = value = node.inputs[name]
    if isinstance(value, BadLink):
        raise _problem(
            node,
            wants,
            around,
            "bad_linked_input",
            "Bad linked input, must be a length-2 list of [node_id, slot_index]",
            received_value=value.received,
        )
    if isinstance(value, Link):
        received[name] = _linked_type(name, value, around)
        if "input_types" not in spec.validates:
            _check_type(node, wants, value, received[name], around)
        return
    value = _coerced(node, wants, given, around)
    if value is not given:
        coerced[name] = value
    if not spec.handles(name):
        _check_range(node, wants, value, around)
        if wants.choice is not None:
            _check_choice(node, wants, value, around)


def _stray_links(node: PromptNode, spec: NodeSpec, around: Surroundings) -> list[Fault]:
    """Links of inputs that the class doesn't declare are passed on to it, so they must lead somewhere."""
    faults: list[Fault] = []
    for name, value in node.inputs.items():
        if isinstance(value, Link) and spec.input(name) is None:
            try:
                _linked_type(name, value, around)
            except _Unreadable as unreadable:
                faults.append(unreadable.fault)
    return faults


def _linked_type(name: str, link: Link, around: Surroundings) -> Types:
    spec = around.specs.get(link.node)
    if spec is None:
        why = f"Input {name!r} is linked to node {link.node}, which is not in the prompt.\n"
        raise _Unreadable(Fault("KeyError", repr(link.node), (why,)))
    if not 0 <= link.slot < len(spec.outputs):
        why = (
            f"Input {name!r} is linked to output {link.slot} of node {link.node}, "
            f"but {spec.name} has {len(spec.outputs)} (the first is 0).\n"
        )
        raise _Unreadable(Fault("IndexError", "tuple index out of range", (why,)))
    return spec.outputs[link.slot].type


def _check_type(node: PromptNode, wants: InputSpec, link: Link, got: Types, around: Surroundings) -> None:
    choices = around.choices_of(wants)
    if _matches(wants, choices, got):
        return
    shown = got if isinstance(got, str) else list(got)
    raise _problem(
        node,
        wants,
        around,
        "return_type_mismatch",
        "Return type mismatch between linked nodes",
        f"{wants.name}, received_type({shown}) mismatch input_type({wants.config(choices)[0]})",
        received_type=shown,
        linked_node=[link.node, link.slot],
    )


def _matches(wants: InputSpec, choices: Sequence[str], got: Types) -> bool:
    """Equal, unions that share a member, or `*`. A list of options suits its equal, and any COMBO input."""
    if wants.type == "*" or got == "*":
        return True
    listed = wants.choice is not None and wants.choice.style == "list"
    if isinstance(got, tuple):
        return list(got) == list(choices) if listed else wants.type == "COMBO"
    if listed:
        return False
    differ = got != wants.type  # never, for the wildcards of packs: strings that are unequal to nothing
    if not differ:
        return True
    ours, theirs = ({part.strip() for part in types.split(",")} for types in (wants.type, got))
    return "*" in ours | theirs or not ours.isdisjoint(theirs)


def _coerced(node: PromptNode, wants: InputSpec, value: Input, around: Surroundings) -> object:
    kind = str(wants.type)  # packs' wildcards may have no hash
    cast = _CASTS.get(kind)
    try:
        if cast is not None:
            value = cast(given := value)
            if isinstance(value, float) and not math.isfinite(value):
                value = given
                raise ValueError("not a finite number")
        elif value is not None and kind in _NO_WIDGET:
            raise TypeError("connect the output of a node")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _problem(
            node,
            wants,
            around,
            "invalid_input_type",
            f"Failed to convert an input value to a {kind} value",
            f"{wants.name}, {value}, {error}",
            received_value=value,
            exception_message=str(error),
        ) from error
    return value


def _check_range(node: PromptNode, wants: InputSpec, value: object, around: Surroundings) -> None:
    if not isinstance(value, (int, float)):
        return
    least, most = wants.options.get("min"), wants.options.get("max")
    if isinstance(least, (int, float)) and value < least:
        code, message = "value_smaller_than_min", f"Value {value} smaller than min of {least}"
    elif isinstance(most, (int, float)) and value > most:
        code, message = "value_bigger_than_max", f"Value {value} bigger than max of {most}"
    else:
        return
    raise _problem(node, wants, around, code, message, received_value=value)


def _check_choice(node: PromptNode, wants: InputSpec, value: object, around: Surroundings) -> None:
    choices = around.choices_of(wants)
    several = bool(wants.options.get("multiselect")) and isinstance(value, list)
    if value in choices or (several and all(one in choices for one in value)):  # type: ignore[attr-defined]
        return
    if "remote" in wants.options and not choices:
        return  # the front end fetches these options itself
    long = len(choices) > _LONGEST_LIST
    among = f"(list of length {len(choices)})" if long else str(choices)
    config = None if long else wants.config(choices)
    extra = {"input_name": wants.name, "input_config": config, "received_value": value}
    details = f"{wants.name}: '{value}' not in {among}"
    raise _Problem(NodeError("value_not_in_list", node.id, "Value not in list", details, extra))


def _own_validator(
    node: PromptNode,
    spec: NodeSpec,
    inputs: Mapping[str, Input],
    received: Mapping[str, Types],
    around: Surroundings,
) -> tuple[list[NodeError], list[Fault]]:
    """Ask the class. It gets literals, None for links, and its services."""
    shown = literals(spec, inputs)
    if spec.dynamic:
        shown |= hidden(spec, node.id, None)
    handled = {name: value for name, value in shown.items() if spec.handles(name)}
    if "input_types" in spec.validates:
        handled["input_types"] = dict(received)
    services = {name: around.services[kind] for name, kind in spec.services.items()}
    try:
        answer = spec.validate(**listed(spec, handled), **services)  # type: ignore[misc]  # it is there
        if around.settle is not None and isawaitable(answer):
            answer = around.settle(answer)
    except Exception as error:  # a node's own code
        log.warning("The validator of %s raised on node %s", spec.name, node.id, exc_info=True)
        name = type(error).__qualname__
        full = name if type(error).__module__ == "builtins" else f"{type(error).__module__}.{name}"
        return [], [Fault(full, str(error), tuple(traceback.format_tb(error.__traceback__)))]
    if answer is True:
        return [], []
    why = "" if answer is False else f" - {answer}"
    message = "Custom validation failed for node"
    return [
        NodeError("custom_validation_failed", node.id, message, name + why, {"input_name": name})
        for name in handled
    ], []


def _problem(
    node: PromptNode,
    wants: InputSpec,
    around: Surroundings,
    code: str,
    message: str,
    details: str | None = None,
    **facts: object,
) -> _Problem:
    """details None: the input's name."""
    extra = {"input_name": wants.name, "input_config": around.config(wants), **facts}
    return _Problem(NodeError(code, node.id, message, wants.name if details is None else details, extra))
