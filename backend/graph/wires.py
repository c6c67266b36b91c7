"""What a job's wires carry: what each output of a lowered node is, so far as it is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.graph.lowered import MISSING, Items, Known, Lengths
from backend.graph.parse import Link
from backend.node import NodeSpec
from backend.references import Ref
from backend.types import Blocked, NodeId, OpKey


@dataclass(slots=True)
class Inputs:
    """A node's inputs. unknown: results that must exist before it can be lowered; items are a guess then.

    missing: lazy inputs without a value; raw: what stands behind links that are handed over as such; whole:
    whether every input has items, guessed or not.
    """

    items: dict[str, Items] = field(default_factory=dict)
    unknown: dict[OpKey, None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    raw: list[tuple[str, Items]] = field(default_factory=list)
    whole: bool = True


class Wires:
    def __init__(self) -> None:
        self._items: dict[tuple[NodeId, int], Items | OpKey] = {}  # an OpKey: a list output not known yet
        self._guesses: dict[tuple[NodeId, int], Items] = {}

    def put(self, id: NodeId, slot: int, items: Items) -> None:
        self._items[id, slot] = items

    def put_call(
        self, id: NodeId, spec: NodeSpec, key: OpKey, items: Mapping[str, Items], dynamic: bool
    ) -> None:
        """What the outputs of a call carry, so far as it is known before it has run."""
        calls = 1 if spec.input_is_list else max(1, max(map(len, items.values()), default=1))
        for slot, output in enumerate(spec.outputs):
            if output.is_list:
                self._items[id, slot] = key
                if dynamic:
                    self._guesses[id, slot] = ()
                continue
            refs = tuple(Ref(key, slot, i) for i in range(calls))
            if dynamic:
                self._items[id, slot], self._guesses[id, slot] = key, refs
            else:
                self._items[id, slot] = refs

    def drop(self, id: NodeId, spec: NodeSpec) -> None:
        for slot in range(len(spec.outputs)):
            self._items.pop((id, slot), None)
            self._guesses.pop((id, slot), None)

    def source(self, link: Link, known: Known, lengths: Lengths) -> tuple[Items | None, OpKey | None]:
        """A link's items (None: not lowered, or of unknown length), and the result that must exist first.

        Where that one doesn't exist yet, items are what they will be unless it blocks or expands.
        """
        wire = self._items.get((link.node, link.slot))
        if not isinstance(wire, str):
            return wire, None
        count = lengths(wire)
        if count is None:
            return self._guesses.get((link.node, link.slot)), wire
        if link.slot >= len(count):
            return (), None
        refs = tuple(Ref(wire, link.slot, i) for i in range(count[link.slot]))
        if (link.node, link.slot) in self._guesses:  # no plain list: it may have been blocked
            return tuple(v if isinstance(v := known(ref), Blocked) else ref for ref in refs), None
        return refs, None


def resolved(items: Items, known: Known) -> tuple[Items, list[OpKey]]:
    """Items with results in place of Refs, and the results that are not there (their items are MISSING)."""
    values = tuple(known(item) if isinstance(item, Ref) else item for item in items)
    pairs = zip(items, values, strict=True)
    return values, [item.key for item, value in pairs if value is MISSING and isinstance(item, Ref)]
