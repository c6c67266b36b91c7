"""Builders for the tests of nodes: a storage of its own, and nodes called as the server calls them."""

import hashlib
from pathlib import Path

from backend.components import Contents, File
from backend.library import Library
from backend.node import Result
from backend.ops import Awaiting
from backend.settings import Settings
from backend.storage import Storage
from nodes.catalogue import builtin_registry

REGISTRY = builtin_registry()


def a_storage(folder: Path) -> Storage:
    """Storage below a folder, its folders made."""
    storage = Storage(Settings(base_directory=folder))
    storage.prepare()
    return storage


def run(
    name: str, /, storage: Storage | None = None, settings: Settings | None = None, **inputs: object
) -> object:
    """What a node returns; left out widgets have their defaults, services are those given."""
    spec = REGISTRY.find(name)
    assert spec is not None, name
    library = None if storage is None else Library(storage, by_bytes)
    services = {Storage: storage, Settings: settings or Settings(), Library: library}
    given = {key: services[kind] for key, kind in spec.services.items()}
    while True:
        try:
            return spec.function(**inputs, **given)
        except Awaiting as awaiting:
            assert library is not None
            for op in awaiting.ops:
                library.identify(op.file)


def by_bytes(file: File) -> Contents:
    """An identity for files that need not be model files."""
    return Contents(hashlib.sha256(Path(file.path).read_bytes()).hexdigest(), file.size)


def names_of(result: object, key: str = "images") -> list[str]:
    """The file names that an output node shows."""
    assert isinstance(result, Result)
    assert result.ui is not None
    return [item["filename"] for item in result.ui[key]]
