"""Functions of node packs on their way to a worker: pickled by value, unpickled beside ComfyUI's modules.

What a function needs of its own pack travels with it. Should it import more of the pack while it runs, the
worker finds the pack's files where the server did.
"""

import hashlib
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from backend.errors import TesseraError
from backend.registry import Registry
from backend.settings import Settings
from backend.storage import Storage
from comfy_compat.bridge import Bridge
from comfy_compat.install import install, installed


class Unpackable(TesseraError):
    """A pack's function can't be sent to a worker."""

    code = "unpackable"

    def __init__(self, what: str, problem: Exception) -> None:
        self.what, self.problem = what, problem
        super().__init__(
            f"{what} can't be sent to the worker that would run it: {problem}. Functions of a model must "
            "not hold open files, locks or the like."
        )


class _Parcel:
    """Pickles as a call of `unpacked`, so that a worker needs to know nothing of it."""

    def __init__(self, bridge: Bridge, data: bytes) -> None:
        self._bridge, self._data = bridge, data

    def __reduce__(self) -> tuple[Any, ...]:
        files = dict(self._bridge.files)
        return unpacked, (self._bridge.settings, files, tuple(sys.path), self._data)


def packed(value: object, bridge: Bridge, what: str) -> bytes:
    """Raises: Unpackable, naming `what`."""
    try:
        return pickle.dumps(_Parcel(bridge, cloudpickle.dumps(value)))
    except Exception as problem:  # around a custom node: its objects refuse in ways of their own
        raise Unpackable(what, problem) from problem


def unpacked(settings: Settings, files: Mapping[str, str], path: tuple[str, ...], data: bytes) -> object:
    """The value again, in this process: a worker's first one makes ComfyUI's modules importable there."""
    if not installed():
        storage = Storage(settings)
        install(Bridge(Registry(), storage, settings, files=dict(files)))
        sys.path.extend(entry for entry in path if entry not in sys.path)
    return cloudpickle.loads(data)


def by_value(module: str) -> None:
    """Let what a pack's module defines travel with what uses it."""
    cloudpickle.register_pickle_by_value(sys.modules[module])


def digest(data: bytes) -> str:
    """A short name of what was packed."""
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def pack_file(path: Path) -> str:
    """The file that a pack's module is loaded from."""
    return str(path if path.is_file() else path / "__init__.py")
