"""The pool tab of the unmodified front end, in a real browser, while jobs of several users run."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.build import a_prompt
from tests.serving import Server
from tests.workflows.test_browser import OPENED

pytestmark = [pytest.mark.browser, pytest.mark.server]

KEPT = Path(os.environ.get("TESSERA_POOL_SCREENSHOT", ".cache/browser/pool.png"))
MINE = "() => window.comfyAPI.api.api.clientId"
CHOOSE = "(name) => window.comfyAPI.app.app.extensionManager.setting.set('Comfy.ColorPalette', name)"
COLORS = """() => ['.tp-title', '.tp-header'].map((name) => {
  const style = getComputedStyle(document.querySelector('.tessera-pool ' + name))
  return style.color + style.backgroundColor
})"""


def test_the_pool_tab_shows_devices_components_and_users_live(own_server: Server, page: Page):
    own_server.start()
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "tessera" in said.location["url"] else None)
    page.on("request", lambda request: asked.append(request.url) if "tessera/pool" in request.url else None)
    page.goto(own_server.url)
    page.wait_for_function(OPENED, timeout=120_000)
    mine = page.evaluate(MINE)
    jobs = [
        own_server.submit(a_prompt(seed=seed, steps=24, size=128), client_id=user)
        for seed, user in enumerate((mine, "alice", "bob", "alice"))
    ]

    polls = [url for url in asked if url.endswith("/api/tessera/pool")]
    assert polls == []  # nobody looks
    page.get_by_role("button", name="Pool").first.click()
    pool = page.locator(".tessera-pool")
    expect(pool.locator(".tp-device")).to_have_count(2)  # the host and one worker
    expect(pool.locator(".tp-op", has_text="Denoise").first).to_be_visible(timeout=60_000)
    expect(pool.locator(".tp-progress").first).to_be_visible(timeout=60_000)
    expect(pool.locator(".tp-user", has_text="alice")).to_contain_text("oldest")
    expect(pool.locator(".tp-user .tp-name.tp-you")).to_have_text("you")
    denoiser = pool.locator(".tp-component", has_text="denoiser")
    expect(denoiser).to_contain_text("demo")
    expect(denoiser).to_contain_text("shared by 3")
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=KEPT)

    for job in jobs:
        own_server.finished(job)
    expect(pool.locator(".tp-state")).to_have_text("idle")
    expect(pool.locator(".tp-job")).to_have_count(len(jobs))
    assert pool.locator(".tp-bar").count() >= len(jobs)
    dark = page.evaluate(COLORS)
    page.evaluate(CHOOSE, "light")
    page.wait_for_function(f"(dark) => String(({COLORS})()) !== String(dark)", arg=dark)

    page.get_by_role("button", name="Pool").first.click()
    expect(pool).to_have_count(0)
    seen = len(asked)
    page.wait_for_timeout(2500)
    assert len(asked) == seen  # nobody looks any more
    assert errors == []
