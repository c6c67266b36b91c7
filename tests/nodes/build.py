"""Builders for the tests of nodes: a storage of its own, and nodes called as the server calls them."""

from pathlib import Path

from backend.node import Result
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
    services = {Storage: storage, Settings: settings or Settings()}
    given = {key: services[kind] for key, kind in spec.services.items()}
    return spec.function(**inputs, **given)


def names_of(result: object, key: str = "images") -> list[str]:
    """The file names that an output node shows."""
    assert isinstance(result, Result)
    assert result.ui is not None
    return [item["filename"] for item in result.ui[key]]
