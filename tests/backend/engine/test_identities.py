from dataclasses import replace
from pathlib import Path

import pytest

from backend.components import Component, Contents, File
from backend.engine.identities import Identities
from backend.engine.store import Store
from backend.errors import StoreFailed

FILE = File("/models/ä.safetensors", 2**40, 2**60, 2**64 - 1)
CONTENTS = Contents("abc", 2**40, (Component("vae", "def", 2**33, True), Component("denoiser", "g", 3)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user" / "tessera.db"


def test_contents_survive_a_restart(path: Path):
    first = Identities.open(path, 1)
    first.remember(FILE, CONTENTS)
    first.close()
    again = Identities.open(path, 1)
    assert again.known() == {FILE: CONTENTS}
    again.close()


def test_a_changed_file_takes_the_place_of_what_it_was(path: Path):
    table = Identities.open(path, 1)
    table.remember(FILE, CONTENTS)
    changed = replace(FILE, mtime_ns=5)
    table.remember(changed, Contents("new", 1))
    assert table.known() == {changed: Contents("new", 1)}
    table.close()


def test_identities_by_other_rules_are_forgotten(path: Path):
    first = Identities.open(path, 1)
    first.remember(FILE, CONTENTS)
    first.close()
    later = Identities.open(path, 2)
    assert later.known() == {}
    later.close()


def test_it_works_beside_a_running_store(path: Path):
    table = Identities.open(path, 1)
    store = Store.open(path)
    table.remember(FILE, CONTENTS)
    beside = Identities.open(path, 1)
    assert beside.known() == {FILE: CONTENTS}
    for opened in (table, beside, store):
        opened.close()


def test_a_file_that_is_no_database_is_refused(path: Path):
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreFailed, match=r"tessera\.db does not open"):
        Identities.open(path, 1)


def test_a_database_that_refuses_costs_the_memory_only(path: Path, caplog: pytest.LogCaptureFixture):
    table = Identities.open(path, 1)
    path.chmod(0o444)
    table.remember(replace(FILE, path="\ud800"), CONTENTS)
    assert "can't be kept for the next start" in caplog.text
    assert table.known() == {}
    table.close()
