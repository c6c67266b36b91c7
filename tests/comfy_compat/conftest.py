"""ComfyUI's modules over a server that has folders and built-in nodes, and runs nothing."""

import sys

import pytest

from backend.library import Library
from backend.models.identity import identify
from backend.settings import Settings
from backend.storage import Storage
from comfy_compat.bridge import Bridge
from comfy_compat.install import install, uninstall
from nodes.catalogue import builtin_registry


@pytest.fixture
def comfy(tmp_path):
    """A bridge whose shims can be imported while the test runs."""
    settings = Settings(base_directory=tmp_path, cpu=True)
    storage = Storage(settings)
    storage.prepare()
    services = {Storage: storage, Settings: settings, Library: Library(storage, identify)}
    bridge = Bridge(builtin_registry(), storage, settings, services=services)
    install(bridge)
    yield bridge
    uninstall()
    sys.path.remove(str(tmp_path))
