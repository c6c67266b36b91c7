"""Hold the simulator against the live server: `python -m scripts.calibrate --server URL --model NAME`.

Measures one job alone on a running server (the profile of this machine: seconds of a pass by rows, of
encoding and of decoding, as the server itself has learned them), predicts how many jobs a second it bears
for some scenarios, runs them, and prints both. Run it on a quiet machine; a server of one's own, with
nothing else to do.
"""

import argparse
import json
import statistics
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from backend.schedule.pool import Run
from backend.schedule.simulation.catalogue import GIB, Catalogue, Part
from backend.schedule.simulation.fleet import Done, Fleet, Task
from backend.schedule.simulation.host import Host
from backend.types import ComponentId, OpKey

DENOISER, VAE = ComponentId("live.unet"), ComponentId("live.vae")
_ASK_EVERY = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds: alone and cached but for its seed; of a job without steps; by jobs at once, of a pass."""

    overhead: float
    passes: Mapping[int, float]


class Server:
    """A running server, over HTTP."""

    def __init__(self, url: str, model: str, size: int) -> None:
        self.url, self.model, self.size, self._seed = url.rstrip("/"), model, size, int(time.time())

    def run(self, jobs: int, steps: int, *, fresh_text: bool = False) -> float:
        """So many jobs at once. Returns: seconds until the last is over."""
        begun = time.perf_counter()
        prompts = [self._prompt(steps, fresh_text) for _ in range(jobs)]
        with ThreadPoolExecutor(max(1, min(16, jobs))) as pool:
            ids = list(pool.map(self._submit, prompts))
        waiting = set(ids)
        while waiting:
            time.sleep(_ASK_EVERY)
            waiting = {id for id in waiting if not self._ask(f"/history/{id}")}
        return time.perf_counter() - begun

    def _submit(self, prompt: Mapping[str, object]) -> str:
        return str(
            self._ask("/prompt", {"prompt": prompt, "client_id": f"calibrate{prompt['seed_of']}"})[
                "prompt_id"
            ]
        )

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None
        if body is not None:
            graph = {id: node for id, node in body["prompt"].items() if id != "seed_of"}
            data = json.dumps({**body, "prompt": graph}).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)

    def _prompt(self, steps: int, fresh_text: bool) -> Mapping[str, object]:
        self._seed += 1
        text = f"a lighthouse {self._seed}" if fresh_text else "a lighthouse"
        sampler = {
            "seed": self._seed,
            "steps": steps,
            "cfg": 7.0,
            "sampler_name": "euler",
            "scheduler": "normal",
        }
        links = {
            "model": ["1", 0],
            "positive": ["2", 0],
            "negative": ["3", 0],
            "latent_image": ["4", 0],
            "denoise": 1.0,
        }
        return {
            "seed_of": self._seed,
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": self.model}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": text}},
            "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "blurry"}},
            "4": {
                "class_type": "EmptyLatentImage",
                "inputs": {"width": self.size, "height": self.size, "batch_size": 1},
            },
            "5": {"class_type": "KSampler", "inputs": {**sampler, **links}},
            "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
            "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "calibrate"}},
        }


def measure(server: Server, steps: int, rounds: int) -> Measured:
    """The profile: from jobs of few and of many steps, one, two and four at once."""
    server.run(1, 2)  # loads everything
    passes, overhead = dict[int, float](), 0.0
    for jobs in (1, 2, 4):
        few = statistics.median(server.run(jobs, 2) for _ in range(rounds))
        many = statistics.median(server.run(jobs, 2 + steps) for _ in range(rounds))
        passes[2 * jobs] = max(1e-6, (many - few) / steps)
        if jobs == 1:
            overhead = max(0.0, few - 2 * passes[2])
    return Measured(overhead, passes)


def predict(measured: Measured, jobs: int, steps: int, devices: int, max_rows: int) -> float:
    """Seconds until so many equal jobs are over, on simulated devices with the measured profile."""
    catalogue = Catalogue()
    curve = tuple(sorted(measured.passes.items()))
    catalogue.add(Part(DENOISER, GIB, 0.0, 0.0, curve))
    catalogue.add(Part(VAE, GIB, 0.0, 0.0, ((1, measured.overhead), (2, 2 * measured.overhead))))
    fleet = Fleet(catalogue, Host(catalogue, 64 * GIB), devices, 64 * GIB, slices=False)
    waiting = [f"{number}" for number in range(jobs)]
    rows = dict.fromkeys(fleet.units, 0)
    where: dict[OpKey, Any] = {}
    end = 0.0
    while True:
        while waiting and min(rows.values()) + 2 <= max_rows:
            id = min(rows, key=lambda unit: (rows[unit], unit))
            key = OpKey(f"{waiting.pop(0)}.denoise")
            fleet.tasks[key] = Task(key, 0, "", "step", (DENOISER,), DENOISER, 2, 2, steps)
            rows[id], where[key] = rows[id] + 2, id
            fleet.obey(Run(key, id, ""))
        at = fleet.next_at
        if at is None:
            return end
        for done in ended(fleet, at):
            end, id = at, where.pop(done)
            if done.endswith(".denoise"):
                rows[id] -= 2
                key = OpKey(done.replace("denoise", "decode"))
                fleet.tasks[key] = Task(key, 0, "", "whole", (VAE,), seconds=measured.overhead)
                where[key] = id
                fleet.obey(Run(key, id, ""))


def ended(fleet: Fleet, at: float) -> Iterator[OpKey]:
    return (report.key for report in fleet.advance(at) if isinstance(report, Done))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--model", required=True, help="a checkpoint's name on that server")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--devices", type=int, default=1, help="worker devices of that server")
    parser.add_argument("--max-rows", type=int, default=16, help="rows of a pass at most, as the server's")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    server = Server(flags.server, flags.model, flags.size)
    measured = measure(server, 8, flags.rounds)
    print("seconds of a pass by rows:", {rows: round(s, 4) for rows, s in measured.passes.items()})
    print("seconds of everything else:", round(measured.overhead, 4))
    print(f"{'jobs':>5} {'steps':>6} {'predicted/s':>12} {'measured/s':>12} {'error':>7}")
    for jobs, steps in ((1, 20), (4, 20), (8, 10), (16, 4)):
        said = jobs / predict(measured, jobs, steps, flags.devices, flags.max_rows)
        seen = jobs / statistics.median(server.run(jobs, steps) for _ in range(flags.rounds))
        print(f"{jobs:5} {steps:6} {said:12.3f} {seen:12.3f} {said / seen - 1:7.1%}", flush=True)


if __name__ == "__main__":
    main()
