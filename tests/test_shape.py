"""`make shape` measures right, and no module rebinds its state by `global`. Sizes themselves fail nothing."""

from pathlib import Path

from scripts.shape import measure

ROOT = Path(__file__).resolve().parent.parent


def test_no_function_rebinds_a_name_of_its_module():
    assert measure(ROOT).globals == ()


def test_a_function_is_as_long_as_its_lines_without_the_docstring(tmp_path):
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "a.py").write_text(
        'def f() -> int:\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n'
    )
    shape = measure(tmp_path, ("backend",))
    assert [(f.place, f.lines) for f in shape.functions] == [("backend/a.py:1 f", 3)]
    assert shape.files == {"backend/a.py": 7}
