"""Calling a node: its arguments, what blocks it, and what its answers amount to. No threads, no clock."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backend.node import NodeSpec, Result
from backend.ops import Row
from backend.references import Ref
from backend.types import Blocked, OpKey
from backend.worker.exchange import Outputs
from backend.worker.messages import Stored


@dataclass(slots=True)
class Answers:
    """What the calls of one node returned, in order. blocked: messages of blockers that it met."""

    rows: list[Row] = field(default_factory=list)
    ui: dict[str, list[object]] | None = None
    blocked: list[str] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)

    @property
    def expands(self) -> bool:
        return any(row.nodes is not None for row in self.rows)


def resolve(items: Sequence[object], inputs: Mapping[OpKey, Stored]) -> tuple[object, ...]:
    """A list of items with every `Ref` replaced by what it names."""
    return tuple(
        [inputs[item.key].get()[item.slot][item.item] if isinstance(item, Ref) else item for item in items]
    )


def arguments(spec: NodeSpec, inputs: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """The inputs of each call: once per item of the longest, or once with whole lists where it takes lists.

    Raises: IndexError for an empty list beside filled ones.
    """
    if spec.input_is_list:
        return [{name: list(items) for name, items in inputs.items()}]
    longest = max(map(len, inputs.values()), default=0)
    if longest == 0:
        return [{}]
    for name, items in inputs.items():
        if not items:
            raise IndexError(f"Input {name!r} is an empty list, while others have up to {longest} items.")
    return [{name: items[min(i, len(items) - 1)] for name, items in inputs.items()} for i in range(longest)]


def blocker(spec: NodeSpec, given: Mapping[str, object]) -> Blocked | None:
    """What keeps a node from being called with these arguments."""
    for value in given.values():
        if isinstance(value, Blocked):
            return value
        if spec.input_is_list and isinstance(value, list):
            found = next((item for item in value if isinstance(item, Blocked)), None)
            if found is not None:
                return found
    return None


def block(spec: NodeSpec, by: Blocked, answers: Answers) -> None:
    """The call isn't made: its outputs are blocked in turn. The first to meet a message tells it."""
    if by.message is not None:
        answers.blocked.append(by.message)
    answers.rows.append(Row((Blocked(),) * len(spec.outputs)))


def answer(spec: NodeSpec, returned: object, answers: Answers) -> None:
    """Take in what one call returned. Raises: TypeError, where it doesn't fit the class's outputs."""
    if isinstance(returned, Result):
        answers.pictures += returned.pictures
        if returned.ui is not None:
            answers.ui = _joined(answers.ui, returned.ui)
    if isinstance(returned, Result) and returned.expand is not None:
        answers.rows.append(Row(tuple(returned.values), returned.expand))
    elif isinstance(returned, Blocked):
        answers.rows.append(Row((returned,) * len(spec.outputs)))
    else:
        values = returned.values if isinstance(returned, Result) else returned
        answers.rows.append(Row(_values(spec, values, isinstance(returned, Result))))


def outputs(spec: NodeSpec, rows: Iterable[Row]) -> Outputs:
    """Each output's items over all calls."""
    columns: list[list[object]] = [[] for _ in spec.outputs]
    for row in rows:
        for column, output, value in zip(columns, spec.outputs, row.values, strict=True):
            if output.is_list and not isinstance(value, Blocked):
                column.extend(value)  # type: ignore[arg-type]  # a list, or a TypeError that says so
            else:
                column.append(value)
    return tuple(map(tuple, columns))


def needed(names: Iterable[object], given: Iterable[str], missing: Sequence[str]) -> tuple[str, ...]:
    """The inputs that a node asks for and doesn't have, each once."""
    there = set(given) - set(missing)
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name not in there))


def _values(spec: NodeSpec, returned: object, listed: bool) -> tuple[object, ...]:
    """One value per output. listed: `returned` is known to be a tuple of outputs, even of one."""
    count = len(spec.outputs)
    if count == 0 and (spec.dynamic or not returned):
        return ()
    if count == 1 and not listed:
        return (returned,)
    if not isinstance(returned, (tuple, list)):
        raise TypeError(
            f"{spec.name} has {count} outputs and returned a {type(returned).__name__}, no tuple."
        )
    if spec.dynamic:  # as in ComfyUI: outputs that were left out are None, more than there are go unread
        return (*returned[:count], *(None,) * (count - len(returned)))
    if listed and not returned and count:
        raise TypeError(f"{spec.name} has {count} outputs and returned a Result without values.")
    if len(returned) != count:
        raise TypeError(f"{spec.name} has {count} outputs and returned {len(returned)} values.")
    return tuple(returned)


def _joined(
    ui: dict[str, list[object]] | None, more: Mapping[str, Sequence[object]]
) -> dict[str, list[object]]:
    """ui lists of another call appended; the first call says which keys there are."""
    if ui is None:
        return {name: list(items) for name, items in more.items()}
    for name, items in ui.items():
        items.extend(more.get(name, ()))
    return ui
