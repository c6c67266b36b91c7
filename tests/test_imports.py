"""Import directions, no cycles, and one home for each library: the rules of the tree, read from two tables.

Every import statement counts, also those inside functions and below `if TYPE_CHECKING`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("web", "comfy_compat", "nodes", "backend")

# A row may import the rows below it, and nothing else of its own row. A package counts as one entry: its
# files may import each other.
ROWS = (
    ("web",),
    ("comfy_compat",),
    ("nodes",),
    ("backend.engine",),  # sees workers through a protocol of worker.messages
    ("backend.worker",),
    ("backend.models",),
    ("backend.graph", "backend.schedule", "backend.sampling"),
    ("backend.registry",),
    ("backend.node",),
    ("backend.resize",),
    ("backend.library", "backend.calling"),
    ("backend.video",),
    ("backend.ops", "backend.media", "backend.storage"),
    ("backend.guiders",),
    ("backend.references",),
    ("backend.components",),
    ("backend.patches",),
    ("backend.latent_operations",),
    ("backend.errors", "backend.settings"),
    ("backend.types", "backend.deferred", "backend.jsontext"),
    ("backend.values",),
)

# library -> the files and folders (ending in /) that may name it
HOMES = {
    "av": ("backend/video.py", "comfy_compat/shims/"),
    "aiohttp": ("web/", "comfy_compat/shims/"),  # shims: ComfyUI's own modules hand it to packs
    "asyncio": (
        "backend/engine/",
        "web/",
        "comfy_compat/shims/",
        "backend/worker/foreign.py",  # coroutines of third-party nodes
        "backend/worker/node_calls.py",
        "backend/worker/host.py",
        "backend/worker/turn.py",
    ),
    "diffusers": ("backend/models/",),
    "networkx": ("backend/graph/",),
    "orjson": ("backend/jsontext.py",),
    "os.environ": ("backend/settings.py",),
    "prometheus_client": ("web/prometheus.py",),
    "ray": ("backend/worker/ray_pool.py",),
    "safetensors": (
        "backend/models/",
        "backend/media.py",  # files of latents
        "comfy_compat/weight_files.py",
        "comfy_compat/shims/",
    ),
    "sentencepiece": ("backend/models/pieces_tokenizer.py", "scripts/", "tests/"),
    "spandrel": ("backend/models/spandrel_nets.py",),
    "sqlalchemy": (
        "backend/engine/store.py",
        "backend/engine/writer.py",
        "backend/engine/tables.py",
        "backend/engine/identities.py",  # its own connection: used beside a running server too
    ),
    "time": (
        "backend/engine/clock.py",
        "backend/storage.py",  # the default of a clock that is handed in
        "backend/worker/",  # a worker times its own work; nothing it decides hangs on it
        "comfy_compat/custom_nodes.py",  # how long packs take to import
        "comfy_compat/shims/",
    ),
    "torch": (
        "backend/deferred.py",
        "backend/models/",
        "backend/resize.py",
        "backend/sampling/",
        "backend/types.py",
        "backend/worker/",
        "comfy_compat/",
        "nodes/",
    ),
    "transformers": ("backend/models/",),
}
UNUSED = {"ray", "transformers"}  # homes kept free for what may move in
# Imports by a name that is computed can't be read here, so they stand in these places only.
BY_NAME = (
    "backend/deferred.py",  # torch, at its first use
    "comfy_compat/install.py",  # shims, by the names that packs import them by
    "nodes/catalogue.py",  # the modules of the explicit list
    "web/assets.py",  # a package that need not be installed
)


@dataclass(frozen=True)
class Import:
    """One name that a file imports. only_types: below `if TYPE_CHECKING`."""

    file: str
    line: int
    target: str
    only_types: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> frozenset[str]:
    return frozenset(module_of(path) for path in sources())


def names_of(node: ast.AST) -> list[str]:
    """What an expression imports; for `from a import b` the module a.b, where that is a module of ours."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        longer = [f"{node.module}.{alias.name}" for alias in node.names]
        inner = [name for name in longer if name in modules() or name in HOMES]
        return inner if len(inner) == len(longer) else [node.module, *inner]
    if isinstance(node, ast.Call) and by_name(node):
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
        return ["os.environ"] if node.attr in ("environ", "getenv", "putenv") else []
    return []


def by_name(call: ast.Call) -> bool:
    return ast.unparse(call.func).split(".")[-1] in ("import_module", "__import__")


def imports_in(file: str, tree: ast.Module) -> Iterator[Import]:
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            guarded.update(inner for statement in node.body for inner in ast.walk(statement))
        for name in names_of(node):
            yield Import(file, node.lineno, name, node in guarded)  # type: ignore[attr-defined]


@cache
def imports() -> tuple[Import, ...]:
    found: list[Import] = []
    for path in sources():
        file = path.relative_to(ROOT).as_posix()
        found += imports_in(file, ast.parse(path.read_text(), file))
    return tuple(found)


def entry_of(module: str) -> tuple[int, str] | None:
    """The row of a module of ours, counted from the top, and its entry there."""
    for row, entries in enumerate(ROWS):
        for entry in entries:
            if module == entry or module.startswith(entry + "."):
                return row, entry
    return None


def wrong_way(imported: Import) -> bool:
    if imported.target.split(".")[0] not in PACKAGES or imported.target == "backend":
        return False
    source, target = entry_of(module_of(ROOT / imported.file)), entry_of(imported.target)
    if source is None or target is None:
        return True  # told apart by the test of rows
    return source[1] != target[1] and target[0] <= source[0]


def away_from_home(imported: Import) -> bool:
    for library, homes in HOMES.items():
        if imported.target == library or imported.target.startswith(library + "."):
            return not any(imported.file == home or imported.file.startswith(home) for home in homes)
    return False


def test_every_module_has_a_row():
    nameless = {"backend"}  # the package itself holds nothing
    assert [m for m in sorted(modules() - nameless) if entry_of(m) is None] == []
    assert len(modules()) > 50


def test_imports_point_one_way():
    assert [str(found) for found in imports() if wrong_way(found)] == []


def test_no_cycles_not_even_hidden_ones():
    graph = nx.DiGraph()
    for found in imports():
        source = module_of(ROOT / found.file)
        if found.target in modules() and found.target != source:
            graph.add_edge(source, found.target)
    loops = [sorted(loop) for loop in nx.strongly_connected_components(graph) if len(loop) > 1]
    assert loops == []


def test_each_library_has_one_home():
    assert [str(found) for found in imports() if away_from_home(found)] == []


@pytest.mark.parametrize("library", sorted(set(HOMES) - UNUSED))
def test_every_home_is_lived_in(library):
    """A rule that nothing uses any more, or that reads the code wrongly, is to be noticed."""
    assert any(i.target == library or i.target.startswith(library + ".") for i in imports())


def test_nodes_and_the_words_load_torch_at_its_first_use_only():
    """Listing nodes must not wait for torch: it comes through `backend.deferred`, or for type checkers."""
    words = ("types", "components", "references", "guiders", "ops", "node")
    early = ("nodes/", *(f"backend/{name}.py" for name in words))
    found = [i for i in imports() if i.file.startswith(early) and i.target.split(".")[0] == "torch"]
    assert [str(i) for i in found if not i.only_types] == []


def test_imports_by_computed_names_stand_in_known_places():
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        if path.relative_to(ROOT).as_posix() not in BY_NAME
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and by_name(node) and not names_of(node)
    ]
    assert calls == []


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("backend/graph/x.py", "from backend.engine.loop import Engine"),
        ("backend/graph/x.py", "def f():\n    import backend.schedule.pool"),
        ("backend/types.py", "if TYPE_CHECKING:\n    from backend import errors"),
        ("nodes/x.py", "from comfy_compat.object_info import object_info"),
        ("backend/registry.py", "import web.app"),
        ("backend/node.py", "importlib.import_module('backend.engine.loop')"),
    ],
)
def test_the_rules_see_a_wrong_direction(file, code):
    assert any(wrong_way(found) for found in imports_in(file, ast.parse(code)))


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("backend/engine/loop.py", "import sqlalchemy.exc"),
        ("backend/graph/x.py", "async def f():\n    from asyncio import sleep"),
        ("web/x.py", "import os\nprint(os.environ['A'])"),
        ("web/x.py", "from os import environ"),
        ("backend/schedule/policy.py", "from time import monotonic"),
        ("backend/engine/loop.py", "if TYPE_CHECKING:\n    from torch import Tensor"),
    ],
)
def test_the_rules_see_a_library_away_from_home(file, code):
    assert any(away_from_home(found) for found in imports_in(file, ast.parse(code)))
