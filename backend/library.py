"""The library: which weights a model file holds. Nodes ask it by name; it answers with content.

A file that was never read through is read by an `Identify` op, so that nothing hashes while lowering.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Protocol, TypeAlias

from backend.components import ComponentKind, Contents, File, Weights
from backend.ops import Awaiting, Identify
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
        self._known(*files)
        found = [self._contents[file].role(kind) for file in files]
        digest = found[0].digest if len(found) == 1 else _joined([component.digest for component in found])
        nbytes = sum(component.nbytes for component in found)
        return self._weights.setdefault((kind, files), Weights(kind, digest, files, nbytes=nbytes))

    def encoders(self, *files: File) -> tuple[Weights, ...]:
        """The text encoders in files, in the files' order; of a file without any, all of it in that role.

        Raises: Awaiting.
        """
        return tuple(
            Weights("text_encoder", c.digest, (file,), c.part, c.nbytes)
            for file, contents in zip(files, self._known(*files), strict=True)
            for c in contents.roles("text_encoder")
        )

    def encoding(self, file: File) -> str:
        """What a checkpoint's text encoders make together. Raises: Awaiting."""
        (contents,) = self._known(file)
        return contents.encoding

    def _known(self, *files: File) -> tuple[Contents, ...]:
        if missing := [Identify(file) for file in files if file not in self._contents]:
            raise Awaiting(*missing)
        return tuple(self._contents[file] for file in files)

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
