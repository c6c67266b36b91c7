"""NodeSpec -> what `/object_info` says of a node class."""

import logging
from collections.abc import Iterable

from backend.node import InputSpec, NodeSpec
from backend.storage import Storage

# Marks of a class that the front end knows; `extra` may hold others, which are the server's own.
_FLAGS = ("deprecated", "experimental", "api_node", "dev_only")
_FACTS = ("search_aliases", "output_matchtypes", "price_badge", "essentials_category")


log = logging.getLogger(__name__)


def describe(specs: Iterable[NodeSpec], storage: Storage) -> dict[str, dict[str, object]]:
    """Every class by name. One of a pack that fails to describe itself is left out, and logged."""
    described: dict[str, dict[str, object]] = {}
    for spec in specs:
        try:
            described[spec.name] = object_info(spec, storage)
        except Exception:  # around a custom node
            if not spec.serial:
                raise
            log.warning("node class %s of %s can't be described", spec.name, spec.module, exc_info=True)
    return described


def object_info(spec: NodeSpec, storage: Storage) -> dict[str, object]:
    """One class in the front end's shape, JSON-ready. File lists are read now.

    Source: contract, "Nodes, models, server facts".
    """
    own = spec.extra.get("info")
    if callable(own):  # a third-party class says itself what it is, as of now
        told: dict[str, object] = own()
        return told
    sections = _sections(spec, storage)
    info: dict[str, object] = {
        "input": sections,
        "input_order": {section: list(inputs) for section, inputs in sections.items()},
        "output": [o.type if isinstance(o.type, str) else list(o.type) for o in spec.outputs],
        "output_is_list": [o.is_list for o in spec.outputs],
        "output_name": [o.name for o in spec.outputs],
        "name": spec.name,
        "display_name": spec.display_name or spec.name,
        "description": spec.description,
        "python_module": spec.module,
        "category": spec.category,
        "output_node": spec.output_node,
    }
    if any(o.tooltip for o in spec.outputs):
        info["output_tooltips"] = [o.tooltip or "" for o in spec.outputs]
    info |= {flag: True for flag in _FLAGS if spec.extra.get(flag)}
    info |= {fact: spec.extra[fact] for fact in _FACTS if spec.extra.get(fact) is not None}
    return info


def _sections(spec: NodeSpec, storage: Storage) -> dict[str, dict[str, object]]:
    """Inputs by section, each in its own order; a section without inputs is left out, `required` never."""
    sections: dict[str, dict[str, object]] = {
        "required": {i.name: _input(i, storage) for i in spec.inputs if not i.optional},
        "optional": {i.name: _input(i, storage) for i in spec.inputs if i.optional},
        "hidden": dict(spec.hidden),
    }
    return {name: inputs for name, inputs in sections.items() if inputs or name == "required"}


def _input(spec: InputSpec, storage: Storage) -> list[object]:
    """`[type, options]`, or `[type]` where there are no options."""
    type_, options = spec.config(spec.choice.now(storage) if spec.choice else ())
    return [type_, options] if options else [type_]
