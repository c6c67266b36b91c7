"""The library: which weights a model file holds. Nodes ask it by name; it answers with content.

A file that was never read through is read by an `Identify` op, so that nothing hashes while lowering.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Protocol, TypeAlias

from backend.ops import Awaiting, Identify
from backend.references import ComponentKind, Contents, File, Weights
from backend.storage import Storage

Read: TypeAlias = Callable[[File], Contents]  # reads a file through; raises BadFile


class Memory(Protocol):
    """Where identities outlive the server."""

    def known(self) -> Mapping[File, Contents]:
        """All that is remembered."""

    def remember(self, file: File, contents: Contents) -> None: ...


class Library:
    """Weights by file and role. `identify` may be called from any thread, also for several files at once."""

    def __init__(self, storage: Storage, read: Read, memory: Memory | None = None) -> None:
        self._storage, self._read, self._memory = storage, read, memory
        self._contents = dict(memory.known()) if memory is not None else {}
        self._weights: dict[tuple[ComponentKind, tuple[File, ...]], Weights] = {}

    def find(self, kind: ComponentKind, folder: str, *names: str) -> Weights:
        """The weights in files of a model folder, in the role of `kind`.

        Raises: BadFile where a file is missing; Awaiting where one was never read.
        """
        return self.weights(kind, *(self._storage.file(folder, name) for name in names))

    def weights(self, kind: ComponentKind, *files: File) -> Weights:
        """The weights that files hold together, in the role of `kind`. Raises: Awaiting."""
        made = self._weights.get((kind, files))
        if made is not None:
            return made
        if missing := [Identify(file) for file in files if file not in self._contents]:
            raise Awaiting(*missing)
        digests = [self._contents[file].role(kind).digest for file in files]
        digest = digests[0] if len(digests) == 1 else _joined(digests)
        return self._weights.setdefault((kind, files), Weights(kind, digest, files))

    def identify(self, file: File) -> Contents:
        """What a file holds, read through where that is not known yet. Raises: BadFile."""
        contents = self._contents.get(file)
        if contents is None:
            contents = self._read(file)
            self._contents[file] = contents
            if self._memory is not None:
                self._memory.remember(file, contents)
        return contents


def _joined(digests: list[str]) -> str:
    """The identity of weights from several files, in their order."""
    return blake2b("+".join(digests).encode(), digest_size=20).hexdigest()
