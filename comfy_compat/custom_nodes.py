"""Node packs are loaded, each apart from the others, and their nodes registered."""

import inspect
import logging
import os
import tomllib
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from comfy_compat.bridge import Bridge
from comfy_compat.own_samplers import offer_own_samplers
from comfy_compat.pack_files import NoNodes, Pack, find, import_pack, pack_name, prestart
from comfy_compat.packing import by_value
from comfy_compat.v1 import spec_of
from comfy_compat.v3 import is_v3, spec_of_v3

__all__ = ["Pack", "find", "load", "prestart"]
log = logging.getLogger(__name__)


async def load(paths: Iterable[Path], bridge: Bridge) -> list[Pack]:
    """Import packs, and register their nodes. What one of them raises is written down with it."""
    packs = [await _load_one(path, bridge) for path in paths]
    for pack in packs:
        failed = " (IMPORT FAILED)" if pack.error and not pack.nodes else ""
        log.info("%6.1f seconds%s: %s", pack.seconds, failed, pack.path)
    if added := offer_own_samplers(bridge.registry):
        log.info("samplers of node packs: %s", ", ".join(added))
    return packs


async def _load_one(path: Path, bridge: Bridge) -> Pack:
    started = perf_counter()
    names: list[str] = []
    error = trace = None
    web: dict[str, Path] = {}
    before = dict(bridge.web)
    try:
        module = import_pack(path)
        bridge.files[module.__name__] = str(module.__file__)
        by_value(module.__name__)
        web = _web(module, path)
        error = await _register(module, path, bridge, names)
    except (Exception, SystemExit) as raised:  # around a custom node
        error, trace = f"{type(raised).__name__}: {raised}", traceback.format_exc()
        log.warning("Cannot import %s module for custom nodes: %s\n%s", path, raised, trace)
    web |= {name: Path(folder) for name, folder in bridge.web.items() if name not in before}
    bridge.web.update({name: str(folder) for name, folder in web.items()})
    return Pack(pack_name(path), path, tuple(names), perf_counter() - started, error, trace, web)


def _web(module: ModuleType, path: Path) -> dict[str, Path]:
    """The folders of a pack's scripts, by the names they are served under."""
    home = path.parent if path.is_file() else path
    told = {pack_name(path): getattr(module, "WEB_DIRECTORY", None), **_web_of_project(path)}
    places = {name: Path(os.path.abspath(home / str(folder))) for name, folder in told.items() if folder}
    return {name: place for name, place in places.items() if place.is_dir()}


def _web_of_project(path: Path) -> dict[str, str]:
    """What a pack's pyproject.toml says: `web` of [tool.comfy], under the project's name."""
    try:
        told = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    comfy, project = told.get("tool", {}).get("comfy", {}), told.get("project", {})
    folder, name = comfy.get("web"), project.get("name")
    return {str(name): str(folder)} if folder and name else {}


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
    for name, cls in [item for item in bridge.classes.items() if bridge.registry.find(item[0]) is None]:
        try:  # packs also put classes into ComfyUI's own mapping
            _add(str(name), cls, where, bridge.display_names.get(name), bridge, names)
        except Exception as error:  # around a custom node
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
