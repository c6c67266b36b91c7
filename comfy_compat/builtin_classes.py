"""The built-in nodes as classic classes, for packs that call or subclass ComfyUI's own.

`data/classes.json` has ComfyUI's names: module -> class -> [node id, method, its parameters in order].
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from backend.errors import UnsupportedOption
from backend.library import Library
from backend.node import NodeSpec, Result
from backend.ops import Op
from comfy_compat.bridge import Bridge
from comfy_compat.engine import computed, settled
from comfy_compat.object_info import object_info
from comfy_compat.values import hand_out, take_in


class Outputs(tuple[object, ...]):
    """A node's outputs; `result` as newer classes have it."""

    @property
    def result(self) -> tuple[object, ...]:
        return tuple(self)

    @property
    def args(self) -> tuple[object, ...]:
        return tuple(self)


def known_classes() -> dict[str, dict[str, tuple[str, str, list[str]]]]:
    """Module -> class -> (node id, method, parameters)."""
    text = resources.files("comfy_compat").joinpath("data/classes.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, tuple[str, str, list[str]]]] = json.loads(text)
    return found


def classes_of(module: str, bridge: Bridge) -> dict[str, type]:
    """The classes of one of ComfyUI's modules that the server has nodes for, by their Python names."""
    return dict(_classes(known_classes().get(module, {}), bridge))


def _classes(known: Mapping[str, tuple[str, str, list[str]]], bridge: Bridge) -> Iterator[tuple[str, type]]:
    for name, (node, method, parameters) in known.items():
        spec = bridge.registry.find(node)
        if spec is not None and not spec.serial:
            yield name, class_of(spec, method, parameters, bridge)
        else:
            yield name, _missing(name, node, method)


def _missing(name: str, node: str, method: str) -> type:
    """Stands for a node that the server has not, so that packs which name it can be imported."""

    def refuse(*args: object, **kwargs: object) -> object:
        raise UnsupportedOption("node", node, "The server has no such node: leave out what uses it.")

    return type(name, (), {method: refuse, "FUNCTION": method, "RETURN_TYPES": (), "CATEGORY": ""})


def by_node_id(bridge: Bridge) -> dict[str, type]:
    """Every built-in node's class by its id: what NODE_CLASS_MAPPINGS holds of them."""
    named = {
        node: (method, parameters)
        for classes in known_classes().values()
        for node, method, parameters in classes.values()
    }
    made = {}
    for spec in bridge.registry:
        if not spec.serial:
            method, parameters = named.get(spec.name, ("execute", [i.name for i in spec.inputs]))
            made[spec.name] = class_of(spec, method, parameters, bridge)
    return made


def class_of(spec: NodeSpec, method: str, parameters: Sequence[str], bridge: Bridge) -> type:
    """A classic class that does what the node does, inside of a call."""
    members: dict[str, Any] = {
        "INPUT_TYPES": classmethod(lambda cls: _input_types(spec, bridge)),
        "RETURN_TYPES": tuple(o.type if isinstance(o.type, str) else list(o.type) for o in spec.outputs),
        "RETURN_NAMES": tuple(o.name for o in spec.outputs),
        "OUTPUT_IS_LIST": tuple(o.is_list for o in spec.outputs),
        "INPUT_IS_LIST": spec.input_is_list,
        "OUTPUT_NODE": spec.output_node,
        "FUNCTION": method,
        "CATEGORY": spec.category,
        "DESCRIPTION": spec.description,
        "RELATIVE_PYTHON_MODULE": spec.module,
        "__module__": spec.module,
        "__doc__": spec.description,
        method: _method(spec, parameters, bridge, of_class=method == "execute"),
    }
    return type(spec.name, (), members)


def _input_types(spec: NodeSpec, bridge: Bridge) -> dict[str, dict[str, Any]]:
    told = object_info(spec, bridge.storage)["input"]
    assert isinstance(told, dict)
    return {
        section: {
            name: config if isinstance(config, str) else tuple(config) for name, config in inputs.items()
        }
        for section, inputs in told.items()
    }


def _method(spec: NodeSpec, parameters: Sequence[str], bridge: Bridge, of_class: bool) -> Any:
    """The node's method; newer classes have it on the class itself."""

    def call(itself: Any, /, *args: object, **kwargs: object) -> object:
        return called(spec, {**dict(zip(parameters, args, strict=False)), **kwargs}, bridge)

    return classmethod(call) if of_class else call


def called(spec: NodeSpec, given: Mapping[str, object], bridge: Bridge) -> object:
    """A built-in node's outputs, in ComfyUI's shapes; a dict with `ui` where it shows something.

    Raises: OutsideCall for model work outside of a node; what the node raises.
    """
    wires = {i.name: i.type for i in spec.inputs}
    inputs = {
        name: take_in(value, wires[name])
        for name, value in given.items()
        if name in wires and value is not None
    }
    hidden = {name: given.get(name) for name in spec.hidden}
    services = {name: bridge.services[kind] for name, kind in spec.services.items()}
    library = bridge.services[Library]
    assert isinstance(library, Library)
    run: Callable[[], object] = lambda: spec.function(**inputs, **hidden, **services)  # noqa: E731
    returned = settled(run, library)
    ui = returned.ui if isinstance(returned, Result) else None
    values = returned.values if isinstance(returned, Result) else returned
    if not isinstance(values, tuple) or (len(spec.outputs) == 1 and not isinstance(returned, Result)):
        values = (values,) if spec.outputs else ()
    made = Outputs(_done(value, o.type, o.is_list) for value, o in zip(values, spec.outputs, strict=False))
    return made if ui is None else {"ui": {k: list(v) for k, v in ui.items()}, "result": made}


def _done(value: object, wire: object, is_list: bool) -> object:
    if isinstance(value, Op):
        value = computed(value)
    if is_list and isinstance(value, (list, tuple)):
        return [hand_out(item, wire) for item in value]
    return hand_out(value, wire)
