import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.serving import TESSERA
from web.run import BadWorkflow, read_prompt

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 2, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "run/x"}},
}


def a_file(folder: Path, value: object) -> Path:
    path = folder / "prompt.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("value", [PROMPT, {"prompt": PROMPT, "client_id": "x"}])
def test_a_prompt_is_read_bare_or_as_it_is_posted(tmp_path: Path, value: object):
    assert read_prompt(a_file(tmp_path, value)) == PROMPT


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"nodes": [], "links": []}, r"workflow of the editor.*Export \(API\)"),
        ("{", "not valid JSON"),
        ([1], "holds no prompt"),
        ({"1": {"inputs": {}}}, "class_type"),
    ],
)
def test_another_file_is_refused_with_a_way_out(tmp_path: Path, value: object, words: str):
    with pytest.raises(BadWorkflow, match=words):
        read_prompt(a_file(tmp_path, value))


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(BadWorkflow, match=r"absent\.json"):
        read_prompt(tmp_path / "absent.json")


def run(folder: Path, value: object) -> subprocess.CompletedProcess[str]:
    command = [TESSERA, "run", a_file(folder, value), "--cpu", "--base-directory", folder / "base"]
    (folder / "base").mkdir()
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.server
def test_a_prompt_runs_without_a_server_and_names_its_files(tmp_path: Path):
    ended = run(tmp_path, PROMPT)
    assert ended.returncode == 0, ended.stderr
    files = [Path(line) for line in ended.stdout.splitlines()]
    assert [f.name for f in files] == ["x_00001_.png", "x_00002_.png"]
    assert all(f.is_file() for f in files)
    with closing(sqlite3.connect(tmp_path / "base" / "user" / "tessera.db")) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"identities"}  # what files hold is remembered; jobs of a headless run are not


@pytest.mark.server
def test_a_prompt_that_fails_ends_with_its_reason(tmp_path: Path):
    failing = {**PROMPT, "2": {**PROMPT["2"], "inputs": {"images": ["1", 0], "filename_prefix": "../x"}}}
    ended = run(tmp_path, failing)
    assert ended.returncode == 1
    assert "node 2 (SaveImage) failed" in ended.stderr


@pytest.mark.server
def test_a_prompt_that_is_wrong_is_refused_with_its_errors(tmp_path: Path):
    ended = run(tmp_path, {"1": {"class_type": "SaveImage", "inputs": {}}})
    assert ended.returncode == 1
    assert "node 1 (SaveImage)" in ended.stderr
    assert "images" in ended.stderr
