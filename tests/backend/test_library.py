from pathlib import Path

import pytest

from backend.components import Component, Contents, File
from backend.errors import BadFile
from backend.library import Library
from backend.ops import Awaiting, Identify
from backend.settings import Settings
from backend.storage import Storage

A, B = File("/m/a", 1, 1, 1), File("/m/b", 2, 2, 2)
CHECKPOINT = Contents("whole", 9, (Component("denoiser", "d", 5, True), Component("vae", "v", 4, True)))


class Notebook:
    """A memory that outlives a library."""

    def __init__(self) -> None:
        self.kept: dict[File, Contents] = {}

    def known(self) -> dict[File, Contents]:
        return dict(self.kept)

    def remember(self, file: File, contents: Contents) -> None:
        self.kept[file] = contents


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(Settings(base_directory=tmp_path))


def never(file: File) -> Contents:
    raise AssertionError("it is known")


def a_library(storage: Storage, *files: File) -> Library:
    library = Library(storage, lambda file: CHECKPOINT)
    for file in files:
        library.identify(file)
    return library


def test_an_unknown_file_is_awaited_not_read(storage: Storage):
    with pytest.raises(Awaiting) as awaiting:
        Library(storage, never).weights("text_encoder", A, B)
    assert awaiting.value.ops == (Identify(A), Identify(B))


def test_a_known_file_gives_weights_by_content(storage: Storage):
    library = a_library(storage, A, B)
    assert library.weights("vae", A) == library.weights("vae", B)
    assert library.weights("vae", A).digest == "v"
    assert library.weights("vae", A).files == (A,)
    assert library.weights("lora", A).digest == "whole"
    assert library.weights("vae", A).id != library.weights("denoiser", A).id


def test_weights_of_several_files_are_known_by_all_of_them_in_order(storage: Storage):
    made = {A: Contents("a", 1), B: Contents("b", 1)}
    library = Library(storage, made.__getitem__)
    library.identify(A)
    library.identify(B)
    pairs = [library.weights("vae", *files).digest for files in ((A, B), (B, A), (A,), (B,))]
    assert len(set(pairs)) == 4


def test_what_was_read_once_is_remembered(storage: Storage):
    notebook = Notebook()
    Library(storage, lambda file: CHECKPOINT, notebook).identify(A)
    later = Library(storage, never, notebook)
    assert later.identify(A) == CHECKPOINT
    assert later.weights("vae", A).digest == "v"


def test_a_changed_file_of_the_same_name_is_another(storage: Storage, tmp_path: Path):
    path = tmp_path / "models" / "vae" / "v.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    library = Library(storage, lambda file: Contents(Path(file.path).read_text(), file.size))

    def digest() -> str:
        try:
            return library.find("vae", "vae", "v.safetensors").digest
        except Awaiting as awaiting:
            for op in awaiting.ops:
                library.identify(op.file)
            return library.find("vae", "vae", "v.safetensors").digest

    assert digest() == "first"
    path.write_bytes(b"second")
    assert digest() == "second"
    with pytest.raises(BadFile, match=r"none\.safetensors: no such file among the vae"):
        library.find("vae", "vae", "none.safetensors")
