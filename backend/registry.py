"""Name -> NodeSpec."""

import difflib
from collections.abc import Iterable, Iterator

from backend.node import NodeSpec


class Registry:
    """The node classes that the server knows, in menu order."""

    def __init__(self, specs: Iterable[NodeSpec] = ()) -> None:
        self._specs: dict[str, NodeSpec] = {}
        for spec in specs:
            self.add(spec)

    def add(self, spec: NodeSpec) -> None:
        """Register a class; a later one of the same name replaces the earlier, as packs expect."""
        self._specs[spec.name] = spec

    def find(self, name: str) -> NodeSpec | None:
        return self._specs.get(name)

    def similar(self, name: str) -> list[str]:
        """At most three known names that someone who wrote `name` may have meant."""
        return difflib.get_close_matches(name, self._specs, n=3)

    def __iter__(self) -> Iterator[NodeSpec]:
        return iter(self._specs.values())

    def __len__(self) -> int:
        return len(self._specs)
