"""Run ComfyUI's official templates: opened and converted by the real front end, queued here, to an image.

    python -m scripts.templates [--only NAME ...] [--keep FOLDER] [--templates FOLDER]

Every template of the families that we serve is tried whose classes exist; models are small random files under
the names it asks for (`template_models.py`). Sizes and steps are cut down, for a CPU. Prints a table. Those
of SD1.5 left the package: `--templates` names a folder that has them (of comfyui-workflow-templates 0.1.94).
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from scripts.template_models import make
from tests.serving import Server, error_of

OURS = re.compile(
    r"sd_xl|sd3\.5|flux1|flux\.1|qwen_image(?!_2\.1|_layered)|qwen-image|z_image|v1-5|sd15|512-inpainting"
    r"|dreamshaper|architecturereal|interiordesign",
    re.I,
)
OTHERS = re.compile(r"flux2|flux-2|wan2|ltx|hunyuan|hidream|chroma|svd|anima|minimax", re.I)
VIRTUAL = {"Note", "MarkdownNote", "PrimitiveNode", "Reroute"}
SIDE, STEPS, PIXELS = 128, 2, 128 * 128 / 1e6
PATIENCE = 600  # seconds for one of them
READY = """() => {
  const app = window.comfyAPI?.app?.app
  return app?.rootGraph && app.extensionManager?.workflow?.activeWorkflow
}"""
CONVERT = """async (workflow) => {
  const app = window.comfyAPI.app.app
  await app.loadGraphData(workflow)
  const made = await app.graphToPrompt()
  return {output: made.output, workflow: made.workflow}
}"""


@dataclass(frozen=True, slots=True)
class Template:
    """models: folder/name of each model file that it names."""

    name: str
    workflow: dict[str, Any]
    types: frozenset[str]
    models: tuple[str, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--keep", type=Path, help="the base folder to use, kept afterwards")
    parser.add_argument("--templates", type=Path, default=installed(), help="a folder of templates")
    asked = parser.parse_args()
    base = asked.keep or Path(tempfile.mkdtemp(prefix="tessera-templates-"))
    chosen = [t for t in templates(asked.templates) if (t.name in asked.only if asked.only else ours(t))]
    try:
        rows = run(chosen, base)
    finally:
        if asked.keep is None:
            shutil.rmtree(base, ignore_errors=True)
    print("\n".join(f"| {name} | {result} |" for name, result in rows))
    return 0 if all(result.startswith(("image", "left out")) for _, result in rows) else 1


def installed() -> Path:
    """The package's own templates."""
    import comfyui_workflow_templates_json as package

    return Path(package.__file__ or "").parent / "templates"


def templates(folder: Path) -> Iterator[Template]:
    """All that run here, without somebody's service."""
    for path in sorted(folder.glob("*.json")):
        workflow = json.loads(path.read_text())
        if not isinstance(workflow, dict) or "nodes" not in workflow or path.name.startswith("api_"):
            continue
        nodes = list(_nodes(workflow))
        named = {
            f"{model['directory']}/{model['name']}"
            for node in nodes
            for model in node.get("properties", {}).get("models", [])
        }
        types = frozenset(node["type"] for node in nodes) - VIRTUAL
        yield Template(path.stem, workflow, types, tuple(sorted(named)))


def ours(template: Template) -> bool:
    """Its models are of our families."""
    text = " ".join(template.models)
    return bool(OURS.search(text)) and not OTHERS.search(text)


def _nodes(workflow: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All nodes, those of subgraphs too, but for the subgraphs' own."""
    graphs = workflow.get("definitions", {}).get("subgraphs", [])
    own = {graph["id"] for graph in graphs}
    for graph in (workflow, *graphs):
        yield from (node for node in graph["nodes"] if node["type"] not in own)


def run(chosen: Sequence[Template], base: Path) -> list[tuple[str, str]]:
    browser_path = (
        os.environ.get("TESSERA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    if browser_path is None:
        sys.exit("No browser: install chromium, or name one in TESSERA_CHROMIUM.")
    unknown = {t.name: [m for m in t.models if not make(base / "models", *m.split("/", 1))] for t in chosen}
    (base / "input").mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = []
    with Server(base, ("--cpu", "--force-fp32", "--workers", "1")) as server, sync_playwright() as playwright:
        known = set(server.get("/object_info"))
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--headless", "--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(server.url, timeout=120_000)
        page.wait_for_function(READY, timeout=180_000)
        for template in chosen:
            begun = time.monotonic()
            result = attempt(template, known, unknown[template.name], server, page)
            rows.append((template.name, result))
            print(f"{template.name}: {result} ({time.monotonic() - begun:.1f} s)", flush=True)
        browser.close()
    return rows


def attempt(template: Template, known: set[str], unknown: Sequence[str], server: Server, page: Page) -> str:
    if absent := sorted(template.types - known):
        return f"left out: no class {', '.join(absent)}"
    if unknown:
        return f"left out: no small model for {', '.join(unknown)}"
    try:
        made = page.evaluate(CONVERT, template.workflow)
    except Exception as error:  # what the page says
        return f"not converted: {error}"
    prompt = {id: cut(node, server.base) for id, node in made["output"].items()}
    extra = {"extra_pnginfo": {"workflow": made["workflow"]}}
    status, answer = server.post("/prompt", {"prompt": prompt, "extra_data": extra})
    if status != 200:
        return f"refused: {json.dumps(answer)[:600]}"
    try:
        entry = server.finished(answer["prompt_id"], timeout=PATIENCE)
    except TimeoutError:
        server.post("/queue", {"delete": [answer["prompt_id"]]})
        server.post("/interrupt", {"prompt_id": answer["prompt_id"]})
        return f"not over within {PATIENCE} s"
    if fault := error_of(entry):
        return f"failed at {fault['node_type']}: {fault['exception_message'].strip()[:400]}"
    images = [path for path in server.outputs(entry) if path.is_file()]
    if answer["node_errors"]:
        return f"in part: {json.dumps(answer['node_errors'])[:400]}"
    return f"image, {Image.open(images[0]).size}" if images else "no image"


def cut(node: dict[str, Any], base: Path) -> dict[str, Any]:
    """A node of a prompt with small sizes and few steps; a picture is made for it where it loads one."""
    inputs = dict(node["inputs"])
    for name, value in inputs.items():
        if isinstance(value, (list, dict)) or value is None:
            continue
        if name in ("width", "height") and isinstance(value, (int, float)) and value > SIDE:
            inputs[name] = SIDE
        elif name in ("x", "y") and node["class_type"] == "ConditioningSetArea":
            inputs[name] = 0  # within what was cut down
        elif name == "steps" and node["class_type"] != "ConditioningSetTimestepRange":
            inputs[name] = min(int(value), STEPS)
        elif name == "megapixels":
            inputs[name] = PIXELS
        elif name in ("start_at_step", "end_at_step") and value < 10000:
            inputs[name] = min(int(value), 1)
        elif name == "image" and node["class_type"].startswith("LoadImage"):
            folder = "output" if node["class_type"] == "LoadImageOutput" else "input"
            picture(base / folder / str(value).split(" [")[0])
    return {**node, "inputs": inputs}


def picture(path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
        image = Image.fromarray(pixels)
        (image if path.suffix.lower() in (".png", ".webp") else image.convert("RGB")).save(path)


if __name__ == "__main__":
    sys.exit(main())
