"""The unmodified front end in a real browser: open the page, press Run, see the image."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.server]

KEPT = Path(os.environ.get("TESSERA_SCREENSHOT", ".cache/browser/first_light.png"))
NODES = "window.comfyAPI.app.app.rootGraph.nodes"
OPENED = "() => window.comfyAPI?.app?.app?.rootGraph?.nodes?.length > 0"
TYPES = f"() => {NODES}.map((node) => node.type).sort()"
SHOWN = f"() => {NODES}.find((node) => node.type === 'SaveImage').imgs?.[0]?.naturalWidth"
# what a user sees move: the share of the job in the window's title, and the bar on the sampler's node
WATCH = """() => {
  window.seen = { titles: [], steps: [] }
  setInterval(() => {
    window.seen.titles.push(document.title)
    const node = window.comfyAPI.app.app.rootGraph.nodes.find((n) => n.type === 'KSampler')
    if (node?.progress > 0) window.seen.steps.push(node.progress)
  }, 20)
}"""


def test_a_fresh_page_shows_a_workflow_whose_run_shows_an_image(own_server: Server, page: Page):
    own_server.start()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(own_server.url)
    page.wait_for_function(OPENED, timeout=120_000)
    assert page.evaluate(TYPES) == [
        "CLIPTextEncode",
        "CLIPTextEncode",
        "CheckpointLoaderSimple",
        "EmptyLatentImage",
        "KSampler",
        "SaveImage",
        "VAEDecode",
    ]
    page.evaluate(WATCH)
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(SHOWN, timeout=120_000)

    assert page.evaluate(SHOWN) == 512
    seen = page.evaluate("() => window.seen")
    assert len(set(seen["steps"])) >= 3, seen  # the bar moved, more than from empty to full
    assert any("%" in title for title in seen["titles"])
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(500)  # for the fade-in of the picture
    page.screenshot(path=KEPT)
    assert errors == []
    assert len(list((own_server.base / "output").glob("*.png"))) == 1
