"""Sizes of the code beside what we aim at: a mirror, not a gate. `make shape` prints them."""

import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = ("backend", "comfy_compat", "nodes", "web")
FUNCTION_AIM = (8, 25, 60)  # median, 90th percentile, longest
FILE_AIM = (150, 350, 500)


@dataclass(frozen=True, slots=True)
class Function:
    place: str  # path:line name
    lines: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What was measured. files: lines by path; mutable: `global` statements, which we want none of."""

    files: dict[str, int]
    functions: tuple[Function, ...]
    globals: tuple[str, ...]


def measure(root: Path, folders: tuple[str, ...] = SOURCES) -> Shape:
    """Read every Python file below `folders` of `root`."""
    files: dict[str, int] = {}
    functions: list[Function] = []
    global_statements: list[str] = []
    for path in sorted(p for folder in folders for p in (root / folder).rglob("*.py")):
        name, text = str(path.relative_to(root)), path.read_text()
        files[name] = text.count("\n")
        tree = ast.parse(text, name)
        functions.extend(Function(f"{name}:{f.lineno} {f.name}", length(f)) for f in functions_of(tree))
        global_statements.extend(f"{name}:{g.lineno}" for g in ast.walk(tree) if isinstance(g, ast.Global))
    return Shape(files, tuple(functions), tuple(global_statements))


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its end, its docstring left out."""
    first = function.body[0]
    is_text = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if is_text else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def row(title: str, sizes: list[int], aim: tuple[int, int, int]) -> str:
    if not sizes:
        return f"{title:10} none"
    ninth = statistics.quantiles(sizes, n=10)[-1] if len(sizes) > 1 else sizes[0]
    found = (statistics.median(sizes), ninth, max(sizes))
    parts = (
        f"{name} {value:.0f} (aim {goal})"
        for name, value, goal in zip(("median", "90th", "longest"), found, aim, strict=True)
    )
    return f"{title:10} {len(sizes):5}   " + "   ".join(parts)


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    shape, tests = measure(root), measure(root, ("tests",))
    print(row("functions", [f.lines for f in shape.functions], FUNCTION_AIM))
    print(row("files", list(shape.files.values()), FILE_AIM))
    source, test = sum(shape.files.values()), sum(tests.files.values())
    print(f"lines      {source} in sources, {test} in tests: {test / max(source, 1):.2f} (aim 1.0 to 1.6)")
    backend = sum(
        n for name, n in shape.files.items() if name.startswith("backend/") and "/families/" not in name
    )
    print(f"backend    {backend} lines without families (aim below 10000)")
    for title, over in (
        (
            "functions over 60 lines",
            [f"{f.lines:5} {f.place}" for f in shape.functions if f.lines > FUNCTION_AIM[2]],
        ),
        ("files over 400 lines", [f"{n:5} {name}" for name, n in shape.files.items() if n > 400]),
        ("global statements", list(shape.globals)),
    ):
        print(f"{title}: {len(over) or 'none'}", *sorted(over, reverse=True), sep="\n  ")


if __name__ == "__main__":
    main()
