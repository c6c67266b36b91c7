"""What people do in the front end, done in a real browser: nothing may end in an error of the page."""

import base64
import json
import re
import time
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.build import a_node, a_prompt
from tests.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.server]
expect.set_options(timeout=60_000)

APP = "window.comfyAPI.app.app"
MANAGER = f"{APP}.extensionManager"
OPENED = f"() => window.comfyAPI?.app?.app?.canvas && {APP}.rootGraph.nodes.length > 0"
# What ComfyUI's page says of itself, of files that need not exist, and of addresses that a test can't reach.
USUAL = ("before initialization", "404 (Not Found)", "ERR_NAME_NOT_RESOLVED", "ERR_INTERNET_DISCONNECTED")
IMAGES = f"""() => {APP}.rootGraph.nodes.filter((n) => n.type === 'SaveImage')
  .map((n) => n.imgs?.[0]?.naturalWidth)[0]"""
TEXTS = f"""() => {APP}.rootGraph.nodes.filter((n) => n.type === 'CLIPTextEncode')
  .map((n) => n.widgets[0].value)"""
MINE = "() => window.comfyAPI.api.api.clientId"
PROGRESS = f"""() => {{
  window.seen = []
  setInterval(() => {{
    const share = {APP}.rootGraph.nodes.find((n) => n.type === 'KSampler')?.progress
    if (share) window.seen.push(share)
  }}, 20)
}}"""


@pytest.fixture
def opened(server: Server, page: Page) -> Page:
    """The front end, ready, with its errors in `page.errors`."""
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: page.errors.append(said.text) if is_error(said) else None)
    page.goto(server.url)
    page.wait_for_function(OPENED, timeout=120_000)
    page.wait_for_timeout(500)
    page.keyboard.press("Escape")  # the template browser of a first visit
    return page


def is_step_of(steps: int, share: float) -> bool:
    return abs(share * steps - round(share * steps)) < 1e-6


def is_error(said) -> bool:
    return said.type == "error" and not any(text in said.text for text in USUAL)


def open_prompt(page: Page, prompt: dict, name: str) -> None:
    file = "new File([text], name, { type: 'application/json' })"
    script = f"async ([text, name]) => {APP}.handleFile({file})"
    page.evaluate(script, [json.dumps(prompt), f"{name}.json"])
    page.wait_for_function(f"() => {MANAGER}.workflow.activeWorkflow.path.includes('{name}')")


def run(page: Page) -> None:
    page.get_by_test_id("queue-button").click()


def until_idle(server: Server, timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while server.get("/prompt")["exec_info"]["queue_remaining"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def do(page: Page, command: str) -> None:
    page.evaluate(f"() => {{ {MANAGER}.command.execute('{command}') }}")


def job_list(page: Page) -> Locator:
    shown = page.get_by_test_id("job-assets-list")
    if not shown.count():
        page.get_by_test_id("queue-overlay-toggle").click()
    expect(shown).to_be_visible()
    return shown


def a_row(page: Page, job: str) -> Locator:
    return page.locator(f"[data-job-id='{job}']")


def status_of(server: Server, job: str) -> str:
    jobs = server.get("/api/jobs")["jobs"]
    return next((j["status"] for j in jobs if j["id"] == job), "gone")


def test_two_workflows_at_once_each_show_in_their_own_tab(server: Server, opened: Page):
    open_prompt(opened, a_prompt(seed=71, steps=7, size=128), "first")
    run(opened)
    opened.wait_for_timeout(300)
    open_prompt(opened, a_prompt(seed=72, steps=24, size=192), "second")
    opened.evaluate(PROGRESS)
    run(opened)
    opened.wait_for_function(f"() => ({IMAGES})() === 192", timeout=120_000)
    until_idle(server)
    seen = opened.evaluate("() => window.seen")
    # Until its own job reports, the page lays the running job's bar over equal node ids (its rule).
    own = seen[next(at for at, share in enumerate(seen) if not is_step_of(7, share)) :]
    assert own == sorted(own), "the bar of one job jumped to where another was"
    assert all(is_step_of(24, share) for share in own)
    opened.get_by_text("first", exact=True).first.click()
    opened.wait_for_function(f"() => ({IMAGES})() === 128", timeout=60_000)
    assert opened.errors == []


def test_an_error_shows_on_its_node_and_an_interrupt_ends_the_run(server: Server, opened: Page):
    failing = a_prompt(seed=81, steps=1, size=64)
    saver = next(id for id, node in failing.items() if node["class_type"] == "SaveImage")
    failing[saver]["inputs"]["filename_prefix"] = "../outside"
    open_prompt(opened, failing, "failing")
    run(opened)
    opened.wait_for_function(f"() => {APP}.lastExecutionError?.node_id === '{saver}'", timeout=120_000)
    opened.keyboard.press("Escape")
    open_prompt(opened, a_prompt(seed=82, steps=2000, size=64), "long")
    run(opened)
    opened.wait_for_function(
        f"() => {APP}.rootGraph.nodes.find((n) => n.type === 'KSampler').progress > 0", timeout=120_000
    )
    do(opened, "Comfy.Interrupt")
    until_idle(server)
    assert server.get("/api/jobs?limit=1")["jobs"][0]["status"] == "cancelled"
    assert opened.errors == []


def test_a_picture_is_uploaded_masked_and_run(server: Server, opened: Page, tmp_path: Path):
    Image.new("RGB", (96, 64), (200, 100, 50)).save(tmp_path / "photo.png")
    loading = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "none.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    open_prompt(opened, loading, "loading")
    node = f"{APP}.rootGraph.nodes.find((n) => n.type === 'LoadImage')"
    with opened.expect_file_chooser() as chooser:
        opened.evaluate(f"() => {node}.widgets.find((w) => w.type === 'button').callback()")
    chooser.value.set_files(tmp_path / "photo.png")
    shown = f"() => {node}.widgets[0].value === 'photo.png' && {node}.imgs?.length"
    opened.wait_for_function(shown, timeout=60_000)
    opened.evaluate(f"() => {APP}.canvas.selectNode({node})")
    do(opened, "Comfy.MaskEditor.OpenMaskEditor")
    save = opened.get_by_role("button", name="Save").last
    save.wait_for(timeout=60_000)
    opened.wait_for_timeout(1000)
    opened.mouse.move(700, 450)
    opened.mouse.down()
    opened.mouse.move(800, 480, steps=5)
    opened.mouse.up()
    save.click()
    painted = f"() => {node}.widgets[0].value.includes('clipspace-painted-masked')"
    opened.wait_for_function(painted, timeout=60_000)
    run(opened)
    opened.wait_for_timeout(500)
    until_idle(server)
    assert server.get("/api/jobs?limit=1")["jobs"][0]["status"] == "completed"
    assert opened.errors == []


def test_workflows_settings_and_panels(server: Server, opened: Page):
    folder = server.base / "user" / "default" / "workflows"
    open_prompt(opened, a_prompt(seed=91), "alpha")
    do(opened, "Comfy.SaveWorkflow")
    opened.wait_for_timeout(700)
    opened.keyboard.press("Enter")  # the dialogue asks for its name
    opened.wait_for_function(f"() => {MANAGER}.workflow.activeWorkflow.isPersisted", timeout=60_000)
    store = f"{MANAGER}.workflow"
    opened.evaluate(f"async () => {store}.renameWorkflow({store}.activeWorkflow, 'workflows/beta.json')")
    assert [p.name for p in folder.glob("[!.]*")] == ["beta.json"]
    opened.evaluate(f"async () => {store}.deleteWorkflow({store}.activeWorkflow)")
    assert list(folder.glob("[!.]*")) == []
    opened.evaluate(f"async () => {MANAGER}.setting.set('Comfy.ColorPalette', 'light')")
    assert server.get("/settings/Comfy.ColorPalette") == "light"
    for tab in opened.evaluate(f"() => {MANAGER}.getSidebarTabs().map((tab) => tab.id)"):
        opened.evaluate(f"(id) => {MANAGER}.sidebarTab.toggleSidebarTab(id)", tab)
        opened.wait_for_timeout(400)
    for command in ("Comfy.ShowSettingsDialog", "Comfy.BrowseTemplates", "Comfy.RefreshNodeDefinitions"):
        do(opened, command)
        opened.wait_for_timeout(700)
        opened.keyboard.press("Escape")
    assert opened.errors == []


def test_one_job_is_cancelled_and_then_removed_while_another_runs_on(server: Server, opened: Page):
    client = opened.evaluate(MINE)
    first, second = (
        server.submit(a_prompt(seed=seed, steps=3000, size=64), client_id=client) for seed in (301, 302)
    )
    job_list(opened)
    a_row(opened, second).hover()
    a_row(opened, second).get_by_role("button", name="Cancel").click()
    expect(a_row(opened, second)).to_contain_text("Failed")
    assert (status_of(server, first), status_of(server, second)) == ("in_progress", "cancelled")
    a_row(opened, second).hover()
    a_row(opened, second).get_by_role("button", name="Delete").click()
    expect(a_row(opened, second)).to_have_count(0)
    assert status_of(server, second) == "gone"
    assert server.get(f"/history/{second}") == {}
    do(opened, "Comfy.Interrupt")
    expect(a_row(opened, first)).to_contain_text("Failed")
    opened.get_by_role("button", name="More options").last.click()
    opened.get_by_text("Clear job history").click()
    opened.get_by_role("button", name="Clear", exact=True).click()
    expect(a_row(opened, first)).to_have_count(0)
    assert server.get("/history") == {}
    assert opened.errors == []


def test_a_picture_opens_its_workflow_and_a_job_opens_its_own(server: Server, opened: Page):
    open_prompt(opened, a_prompt(seed=311, steps=1, text="a heron"), "heron")
    run(opened)
    opened.wait_for_function(f"() => ({IMAGES})() === 64", timeout=120_000)
    until_idle(server)
    job = server.get("/api/jobs?limit=1")["jobs"][0]["id"]
    (path,) = server.outputs(server.finished(job))
    script = f"""async (data) => {{
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0))
      await {APP}.handleFile(new File([bytes], 'heron.png', {{ type: 'image/png' }}))
    }}"""
    for open_again in (
        lambda: opened.evaluate(script, base64.b64encode(path.read_bytes()).decode()),
        lambda: a_row(opened, job).get_by_role("button", name="More").click(),
    ):
        open_prompt(opened, a_prompt(text="another bird"), "other")
        job_list(opened)
        a_row(opened, job).hover()
        open_again()
        if opened.get_by_role("menuitem").count():
            opened.get_by_role("menuitem", name="Open as workflow in new tab").click()
        opened.wait_for_function(f"() => ({TEXTS})().includes('a heron')", timeout=60_000)
    assert opened.errors == []


def test_models_are_listed_with_their_pictures_and_a_template_opens(server: Server, opened: Page):
    folder = server.base / "models" / "checkpoints"
    Image.new("RGB", (64, 64), (10, 120, 200)).save(folder / "demo.png")
    pictured = re.compile(r"/models/preview/.*/demo\.")  # other tests may have left models without one
    with opened.expect_response(pictured, timeout=60_000) as told:
        opened.get_by_test_id("model-library-tab-button").click()
        opened.get_by_text("checkpoints", exact=True).first.click()
        opened.get_by_text("demo", exact=True).first.hover()
    assert told.value.status == 200
    do(opened, "Comfy.BrowseTemplates")
    card = opened.locator("[data-testid^='template-workflow-image_']").first
    name = str(card.get_attribute("data-testid")).removeprefix("template-workflow-")
    card.click()
    opened.wait_for_function(f"() => {MANAGER}.workflow.activeWorkflow.path.includes('{name}')")
    assert opened.errors == []


def test_jobs_of_two_pages_show_in_the_page_they_came_from(server: Server, opened: Page):
    other = opened.context.browser.new_page(viewport=opened.viewport_size)
    heard: list[str] = []
    other.on("websocket", lambda socket: socket.on("framereceived", lambda frame: heard.append(str(frame))))
    other.goto(server.url)
    other.wait_for_function(OPENED, timeout=120_000)
    other.wait_for_timeout(500)
    other.keyboard.press("Escape")
    for page, sizes in ((opened, (64, 128)), (other, (192,))):
        for size in sizes:
            open_prompt(page, a_prompt(seed=321, size=size, steps=12), f"size-{size}")
            run(page)
    for page, size in ((opened, 128), (other, 192)):
        page.wait_for_function(f"() => ({IMAGES})() === {size}", timeout=120_000)
    until_idle(server)
    opened.get_by_text("size-64", exact=True).first.click()
    opened.wait_for_function(f"() => ({IMAGES})() === 64", timeout=60_000)
    theirs, *mine = [job["id"] for job in server.get("/api/jobs?limit=3")["jobs"]]
    assert any(theirs in frame for frame in heard)
    assert not any(job in frame for frame in heard for job in mine)
    assert opened.errors == []


def test_a_page_goes_on_after_the_servers_restart(own_server: Server, page: Page):
    own_server.start()
    page.goto(own_server.url)
    page.wait_for_function(OPENED, timeout=120_000)
    sid = page.evaluate(MINE)
    own_server.stop()
    page.wait_for_timeout(500)
    own_server.start()
    page.wait_for_function(f"() => {APP}.api.socket?.readyState === 1", timeout=60_000)
    assert page.evaluate(MINE) == sid
    blank = a_node("EmptyImage", width=64, height=64, batch_size=1, color=3)
    saving = a_node("SaveImage", images=["1", 0], filename_prefix="again")
    open_prompt(page, {"1": blank, "2": saving}, "again")
    run(page)
    page.wait_for_function(f"() => ({IMAGES})() === 64", timeout=120_000)
