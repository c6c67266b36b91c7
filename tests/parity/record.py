"""`python -m tests.parity.record URL [--only TEXT]`: what a ComfyUI server makes of `further.py`.

The server needs the reference set's model files and inputs. `--check` compares with what is recorded.
"""

import argparse
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, load_file, save_file

from tests.parity.further import Prompt, prompts

LIMIT = 2e-4  # relative, as most of the reference set's
RECORDED = Path(__file__).parent / "further.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.parity.record", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--only", default="", help="record the workflows whose name holds this")
    parser.add_argument("--check", action="store_true", help="record nothing, print relative errors")
    asked = parser.parse_args()
    if asked.check:
        for name, error in errors(asked.url, asked.only):
            print(f"{'' if error <= LIMIT else 'FAIL':5}{name:40}{error:.2e}", flush=True)
        return
    results = load_file(RECORDED) if RECORDED.exists() else {}
    wanted = prompts()
    for name, prompt in wanted.items():
        if asked.only in name:
            results[name] = run(asked.url, prompt)
            print(name, results[name].shape, float(np.linalg.norm(results[name])), flush=True)
    save_file({name: results[name] for name in sorted(wanted) if name in results}, RECORDED)


def errors(url: str, only: str = "") -> Iterator[tuple[str, float]]:
    """Each recorded workflow whose name holds `only`, and how far a server's result is off: norm by norm."""
    results, wanted = load_file(RECORDED), prompts()
    for name in (name for name in wanted if name in results and only in name):
        yield name, relative(run(url, wanted[name]), results[name])


def relative(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    if got.shape != wanted.shape:
        return float("inf")
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def run(url: str, prompt: Prompt) -> np.ndarray[Any, Any]:
    """The latent that a workflow saves. Raises: RuntimeError where it fails."""
    id = _post(f"{url}/prompt", {"prompt": prompt})["prompt_id"]
    while id not in (history := _get(f"{url}/history/{id}")):
        time.sleep(0.02)
    if history[id]["status"]["status_str"] != "success":
        raise RuntimeError(json.dumps(history[id]["status"], indent=1))
    (saved,) = (item for out in history[id]["outputs"].values() for item in out.get("latents", ()))
    with urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(saved)}") as reply:
        return load(reply.read())["latent_tensor"]


def _get(url: str) -> Any:
    with urllib.request.urlopen(url) as reply:
        return json.load(reply)


def _post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise RuntimeError(error.read().decode()) from error


if __name__ == "__main__":
    main()
