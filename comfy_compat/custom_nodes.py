"""Node packs: where they lie, and how they are loaded, each apart from the others."""

import importlib.util
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from backend.settings import Settings
from comfy_compat.bridge import Bridge
from comfy_compat.v1 import spec_of
from comfy_compat.v3 import is_v3, spec_of_v3

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
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
            _execute(f"{path.name}_prestartup_script", script)
        except (Exception, SystemExit):  # around a custom node
            log.warning("%s failed:\n%s", script, traceback.format_exc())


async def load(paths: Iterable[Path], bridge: Bridge) -> list[Pack]:
    """Import packs, and register their nodes. What one of them raises is written down with it."""
    packs = [await _load_one(path, bridge) for path in paths]
    for pack in packs:
        failed = " (IMPORT FAILED)" if pack.error and not pack.nodes else ""
        log.info("%6.1f seconds%s: %s", pack.seconds, failed, pack.path)
    return packs


async def _load_one(path: Path, bridge: Bridge) -> Pack:
    started = perf_counter()
    names: list[str] = []
    error = trace = None
    web: dict[str, Path] = {}
    before = dict(bridge.web)
    try:
        module = _import(path)
        web = _web(module, path)
        error = await _register(module, path, bridge, names)
    except (Exception, SystemExit) as raised:  # around a custom node
        error, trace = f"{type(raised).__name__}: {raised}", traceback.format_exc()
        log.warning("Cannot import %s module for custom nodes: %s\n%s", path, raised, trace)
    web |= {name: Path(folder) for name, folder in bridge.web.items() if name not in before}
    bridge.web.update({name: str(folder) for name, folder in web.items()})
    return Pack(pack_name(path), path, tuple(names), perf_counter() - started, error, trace, web)


def pack_name(path: Path) -> str:
    """How a pack is called: its folder's name, or its file's without the ending."""
    return path.stem if path.is_file() else path.name


def module_name(path: Path) -> str:
    """The name of a pack's module in sys.modules, as ComfyUI has it."""
    return os.path.splitext(path)[0] if path.is_file() else str(path).replace(".", "_x_")


def _import(path: Path) -> ModuleType:
    file = path if path.is_file() else path / "__init__.py"
    return _execute(module_name(path), file)


def _execute(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise NoNodes(f"{file} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _web(module: ModuleType, path: Path) -> dict[str, Path]:
    """The folder of a pack's scripts, by the name it is served under."""
    home = path.parent if path.is_file() else path
    folder = getattr(module, "WEB_DIRECTORY", None)
    if folder is None:
        return {}
    place = Path(os.path.abspath(home / str(folder)))
    return {pack_name(path): place} if place.is_dir() else {}


async def _register(module: ModuleType, path: Path, bridge: Bridge, names: list[str]) -> str | None:
    """Register the nodes of a pack; their names go to `names`. Returns: what is wrong with some of them.

    Raises: NoNodes; whatever the pack raises.
    """
    classes = getattr(module, "NODE_CLASS_MAPPINGS", None)
    titles = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
    if classes is None:
        classes = await _of_entry_point(module, path)
    problems: list[str] = []
    where = f"custom_nodes.{pack_name(path)}"
    for name, cls in dict(classes).items():
        try:
            _add(str(name), cls, where, titles.get(name), bridge, names)
        except Exception as error:  # around a custom node
            log.warning("node class %s of %s is left out: %s", name, path, error, exc_info=True)
            problems.append(f"{name}: {type(error).__name__}: {error}")
    return "; ".join(problems) or None


async def _of_entry_point(module: ModuleType, path: Path) -> dict[str, type]:
    """The V3 classes of a pack, by their schemas' names. Raises: NoNodes; whatever the pack raises."""
    entry = getattr(module, "comfy_entrypoint", None)
    if not callable(entry):
        raise NoNodes(
            f"{path} exports neither NODE_CLASS_MAPPINGS nor comfy_entrypoint; a pack needs one of them"
        )
    extension = entry()
    if inspect.isawaitable(extension):
        extension = await extension
    if not hasattr(extension, "get_node_list"):
        raise NoNodes(f"comfy_entrypoint of {path} returned no ComfyExtension")
    await extension.on_load()
    return {cls.GET_SCHEMA().node_id: cls for cls in await extension.get_node_list()}


def _add(name: str, cls: Any, where: str, title: str | None, bridge: Bridge, names: list[str]) -> None:
    known = bridge.registry.find(name)
    if known is not None and not known.serial:
        log.info("node class %s of %s is left out: there is a built-in node of that name", name, where)
        return
    if is_v3(cls):
        spec = replace(spec_of_v3(cls, where), name=name)
        title = title or cls.GET_SCHEMA().display_name
    else:
        spec = spec_of(name, cls, where, title)
    cls.RELATIVE_PYTHON_MODULE = where
    bridge.registry.add(spec)
    bridge.classes[name] = cls
    if title is not None:
        bridge.display_names[name] = title
    names.append(name)
