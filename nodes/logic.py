"""Nodes that choose what runs."""

from backend.node import node
from backend.types import AnyValue


def _chosen(switch: bool) -> str:
    return "on_true" if switch else "on_false"


def _needed(*, switch: bool, **_: object) -> list[str]:
    return [_chosen(switch)]


@node(
    "ComfySwitchNode",  # younger than ComfyUI 0.3.64; the front end's own templates use it
    category="logic",
    display_name="If/Else Switch",
    module="comfy_extras.nodes_logic",
    outputs=("output",),
    lazy=("on_false", "on_true"),
    check_lazy=_needed,
)
def switch_node(
    *, switch: bool, on_false: AnyValue | None = None, on_true: AnyValue | None = None
) -> AnyValue:
    """One of two values. What leads to the other one doesn't run.

    Raises: ValueError where nothing is connected to the chosen input.
    """
    value = on_true if switch else on_false
    if value is None:
        raise ValueError(f"switch is {switch}, but nothing is connected to {_chosen(switch)}: connect it")
    return value
