"""Node packs as files: where they lie, and how a module of theirs is run. Loads no torch."""

import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from types import ModuleType

from backend.settings import Settings
from backend.values import frozen

log = logging.getLogger(__name__)


@frozen
class Pack:
    """One pack after loading. error: why it, or some of it, could not be loaded; web: its scripts' folder."""

    name: str
    path: Path
    nodes: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None
    web: Mapping[str, Path] = field(default_factory=dict)


class NoNodes(Exception):
    """A module that exports nothing a pack exports."""


def find(folders: Iterable[Path], settings: Settings) -> Iterator[Path]:
    """The packs below some folders: folders and .py files, switched-off and unwanted ones left out."""
    for folder in folders:
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.name == "__pycache__" or path.name.endswith(".disabled"):
                continue
            if path.is_file() and path.suffix != ".py":
                continue
            if settings.disable_all_custom_nodes and path.name not in settings.whitelist_custom_nodes:
                log.info("custom node pack %s is skipped (--disable-all-custom-nodes)", path.name)
                continue
            yield path


def prestart(paths: Iterable[Path]) -> None:
    """Run the packs' prestartup_script.py, before anything of theirs is imported."""
    for path in paths:
        script = path / "prestartup_script.py"
        if not script.is_file():
            continue
        try:
            execute(f"{path.name}_prestartup_script", script)
        except (Exception, SystemExit):  # around a custom node
            log.warning("%s failed:\n%s", script, traceback.format_exc())


def pack_name(path: Path) -> str:
    """How a pack is called: its folder's name, or its file's without the ending."""
    return path.stem if path.is_file() else path.name


def module_name(path: Path) -> str:
    """The name of a pack's module in sys.modules, as ComfyUI has it."""
    return os.path.splitext(path)[0] if path.is_file() else str(path).replace(".", "_x_")


def import_pack(path: Path) -> ModuleType:
    file = path if path.is_file() else path / "__init__.py"
    return execute(module_name(path), file)


def execute(name: str, file: Path) -> ModuleType:
    """Run a file as a module of that name. Raises: whatever it raises."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise NoNodes(f"{file} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
