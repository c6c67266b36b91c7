"""install(): ComfyUI's modules become importable under their own names. The package's only side effect."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import nodes
from comfy_compat.bridge import Bridge

SHIMS = Path(__file__).parent / "shims"
# `nodes` is not among them: our own package of that name answers (`nodes/__init__.py`).
TOPS = frozenset(path.stem for path in SHIMS.iterdir() if not path.stem.startswith(("_", ".")))


class ShimLoader(SourceFileLoader):
    """Loads a shim with the bridge as one of its globals."""

    def __init__(self, name: str, path: str, bridge: Bridge) -> None:
        super().__init__(name, path)
        self._bridge = bridge

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["bridge"] = self._bridge
        if module.__spec__ is not None and module.__spec__.submodule_search_locations:
            module.__dict__["__getattr__"] = partial(_submodule, module.__name__)
        super().exec_module(module)


def _submodule(package: str, name: str) -> ModuleType:
    """`comfy.sd` after a mere `import comfy`: ComfyUI has imported them all. Raises: AttributeError."""
    if not name.startswith("_"):
        with suppress(ModuleNotFoundError):
            return import_module(f"{package}.{name}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


class ShimFinder(MetaPathFinder):
    """Finds ComfyUI's modules among the shims, by the path that their name spells; and packs by theirs."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if (pack := self.bridge.files.get(name)) is not None:
            return spec_from_file_location(name, pack)
        if name.partition(".")[0] not in TOPS:
            return None
        place = SHIMS.joinpath(*name.split("."))
        package = place / "__init__.py"
        file = package if package.is_file() else place.with_suffix(".py")
        if not file.is_file():
            return None
        loader = ShimLoader(name, str(file), self.bridge)
        inside = [str(place)] if file is package else None
        return spec_from_file_location(name, file, loader=loader, submodule_search_locations=inside)


def install(bridge: Bridge) -> None:
    """Make the shims importable, in front of everything else; a former installation is replaced."""
    uninstall()
    sys.meta_path.insert(0, ShimFinder(bridge))
    base = str(bridge.storage.base)
    if base not in sys.path:  # packs import each other as `custom_nodes.<pack>`
        sys.path.append(base)
    vars(nodes)["legacy"] = _of_comfyui_nodes


def prompt_server(loop: object, app: object) -> Any:
    """Make `PromptServer.instance`, which packs use while they are imported. app: what they extend."""
    return import_module("server").PromptServer(loop, app)


def installed() -> bool:
    """Whether ComfyUI's modules can be imported in this process."""
    return any(isinstance(finder, ShimFinder) for finder in sys.meta_path)


def the_bridge() -> Bridge:
    """The server that this process' shims stand for. Raises: LookupError before `install`."""
    for finder in sys.meta_path:
        if isinstance(finder, ShimFinder):
            return finder.bridge
    raise LookupError("ComfyUI's modules are not installed in this process: call install() first")


def uninstall() -> None:
    """Forget the shims, and every module that was loaded from them."""
    vars(nodes).pop("legacy", None)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, ShimFinder)]
    for name in [n for n in sys.modules if n.partition(".")[0] in TOPS]:
        loaded = sys.modules[name]
        if isinstance(getattr(loaded.__spec__, "loader", None), ShimLoader):
            del sys.modules[name]


def _of_comfyui_nodes(name: str) -> object:
    """A name of ComfyUI's module `nodes`. Raises: AttributeError if it has none such."""
    return getattr(import_module("comfyui_nodes"), name)
