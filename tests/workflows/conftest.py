"""Servers on small random checkpoints, and a page of a real browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from scripts.demo import write_checkpoint
from tests.serving import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file; tests link to it instead of making their own."""
    path = tmp_path_factory.mktemp("checkpoints") / "demo.safetensors"
    write_checkpoint(path)
    return path


def a_base(folder: Path, checkpoint: Path) -> Path:
    """A base directory with the checkpoint in it, under the name that `build.a_prompt` asks for."""
    target = folder / "models" / "checkpoints" / "demo.safetensors"
    target.parent.mkdir(parents=True)
    target.hardlink_to(checkpoint)
    (folder / "input").mkdir()
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    """A server that tests may not end: many share it. One worker, so that jobs meet in one step loop."""
    base = a_base(tmp_path_factory.mktemp("shared-server"), checkpoint)
    with Server(base, ("--cpu", "--force-fp32", "--workers", "1")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path, checkpoint: Path) -> Iterator[Server]:
    """A server of the test's own, not started yet; what is left of it is ended afterwards."""
    server = Server(a_base(tmp_path / "base", checkpoint), ("--cpu", "--force-fp32", "--workers", "1"))
    yield server
    if server.process is not None:
        server.stop()


@pytest.fixture
def page() -> Iterator[Page]:
    path = os.environ.get("TESSERA_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(
            "No browser: install chromium (apt-get install chromium), or name one in TESSERA_CHROMIUM."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser.new_page(viewport={"width": 1600, "height": 900})
        browser.close()
