"""Hold the simulator against the live server: `python -m scripts.calibrate --server URL`.

Measures a running server over HTTP (seconds of a pass by rows, with LoRAs beside the weights, of encoding a
text, and of the rest: decoding, saving, answering), predicts how many jobs a second the live `plan()` bears
on simulated devices with that profile, in scenarios as those of the benchmark beside ComfyUI
(BENCHMARKS.md), runs them, and prints both. For a server of one's own, on a machine with nothing else to do.
"""

import argparse
import json
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scripts.replay import Measured, Sd, predict

_ASK_EVERY = 0.05
_FEW = 2  # steps of the jobs that measure what is not steps


class Server:
    """A running server, over HTTP. models: two checkpoints; loras: two of them."""

    def __init__(self, url: str, models: Sequence[str], loras: Sequence[str], size: int) -> None:
        self.url, self.models, self.loras, self.size = url.rstrip("/"), models, loras, size

    def run(self, jobs: Sequence[Sd]) -> float:
        """All at once. Returns: seconds until the last is over."""
        prompts = [self._prompt(job) for job in jobs]
        begun = time.perf_counter()
        with ThreadPoolExecutor(16) as pool:
            waiting = set(pool.map(self._submit, prompts))
        while waiting:
            time.sleep(_ASK_EVERY)
            waiting = {id for id in waiting if not self._ask(f"/history/{id}")}
        return time.perf_counter() - begun

    def _submit(self, prompt: Mapping[str, object]) -> str:
        return str(self._ask("/prompt", {"prompt": prompt, "client_id": "calibrate"})["prompt_id"])

    def _ask(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)

    def _prompt(self, job: Sd) -> Mapping[str, object]:
        model, clip = ["1", 0], ["1", 1]
        graph: dict[str, object] = {
            "1": _node("CheckpointLoaderSimple", ckpt_name=self.models[job.model]),
            "4": _node("EmptyLatentImage", width=self.size, height=self.size, batch_size=1),
        }
        if job.lora is not None:
            strengths = {"strength_model": 0.8, "strength_clip": 0.8}
            name = self.loras[job.lora]
            graph["8"] = _node("LoraLoader", model=model, clip=clip, lora_name=name, **strengths)
            model, clip = ["8", 0], ["8", 1]
        graph["2"] = _node("CLIPTextEncode", clip=clip, text=job.text)
        graph["3"] = _node("CLIPTextEncode", clip=clip, text="blurry, low quality")
        last = "4"
        for number, (seed, steps, denoise) in enumerate(job.runs):
            links = {"model": model, "positive": ["2", 0], "negative": ["3", 0], "latent_image": [last, 0]}
            how = {"cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
            last = f"5{number}"
            graph[last] = _node("KSampler", seed=seed, steps=steps, denoise=denoise, **how, **links)
        graph["6"] = _node("VAEDecode", samples=[last, 0], vae=["1", 2])
        graph["7"] = _node("SaveImage", images=["6", 0], filename_prefix="calibrate")
        return graph


def _node(kind: str, **inputs: object) -> Mapping[str, object]:
    return {"class_type": kind, "inputs": inputs}


class Draw:
    """Jobs as the benchmark has them, each time with seeds and texts that were never seen."""

    def __init__(self, users: int, steps: int, first: int) -> None:
        self.users, self.steps, self._next = users, steps, first

    def fresh(self) -> int:
        self._next += 1
        return self._next

    def plain(self, text: str = "a lighthouse", **more: Any) -> Sd:
        return Sd(text=text, runs=((self.fresh(), more.pop("steps", self.steps), 1.0),), **more)

    def scenario(self, name: str, jobs: int) -> list[Sd]:
        one = self.fresh() * 1000
        text = f"a photo of thing number {one}"
        kinds: dict[str, Callable[[int], Sd]] = {
            "sd-users": lambda i: self.plain(f"{text} {i}"),
            "sd-same": lambda i: Sd(text=text, runs=((one + i // self.users, self.steps, 1.0),)),
            "sd-lora": lambda i: self.plain(f"{text} {i}", lora=i % 2),
            "sd-ckpt": lambda i: self.plain(f"{text} {i}", model=i % 2),
            "sd-iterate": lambda i: self._iterated(text, one, i),
        }
        if name != "sd-mixed":
            return [kinds[name](i) for i in range(jobs)]
        order = list(kinds.values())
        return [order[(i // 2) % len(order)](i) for i in range(jobs)]

    def _iterated(self, text: str, one: int, i: int) -> Sd:
        user = i % self.users
        first, second = (one + 500 + user, self.steps, 1.0), (self.fresh(), max(2, self.steps // 2), 0.5)
        return Sd(text=f"the work of user {user} {text}", runs=(first, second))


SCENARIOS = ("sd-users", "sd-same", "sd-lora", "sd-ckpt", "sd-iterate", "sd-mixed")


def measure(server: Server, draw: Draw, rounds: int) -> Measured:
    """The profile: from jobs of few and of many steps, one, two and four at once."""
    for model in (0, 1):
        server.run([draw.plain(model=model, steps=_FEW, lora=lora) for lora in (None, 0, 1)])  # loads all

    def median(jobs: int, **how: Any) -> float:
        return statistics.median(server.run([draw.plain(**how) for _ in range(jobs)]) for _ in range(rounds))

    steps = draw.steps
    passes, few = dict[int, float](), dict[int, float]()
    for jobs in (1, 2, 4):
        few[jobs] = median(jobs, steps=_FEW)
        passes[2 * jobs] = max(1e-6, (median(jobs, steps=_FEW + steps) - few[jobs]) / steps)
    beside = (median(1, steps=_FEW + steps, lora=0) - median(1, steps=_FEW, lora=0)) / steps
    fresh = [server.run([draw.plain(f"text {draw.fresh()}", steps=_FEW)]) for _ in range(rounds)]
    encode = max(0.0, statistics.median(fresh) - few[1])
    rest = max(1e-6, (few[4] - _FEW * passes[8]) / 4)
    return Measured(passes, max(1.0, beside / passes[2]), encode, rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--model", nargs=2, default=["bench_a.safetensors", "bench_b.safetensors"])
    parser.add_argument("--lora", nargs=2, default=["bench_lora_a.safetensors", "bench_lora_b.safetensors"])
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--per-user", type=int, default=3)
    parser.add_argument("--devices", type=int, default=1, help="worker devices of that server")
    parser.add_argument("--max-rows", type=int, default=8, help="rows of a pass at most, as the server's")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    server = Server(flags.server, flags.model, flags.lora, flags.size)
    draw = Draw(flags.users, flags.steps, int(time.time()) % 10**6 * 1000)
    measured = measure(server, draw, flags.rounds)
    print("seconds of a pass by rows:", {rows: round(s, 4) for rows, s in measured.passes.items()})
    print(f"with LoRAs {measured.beside:.3f} times as long; a text {measured.encode:.4f} s")
    print(f"all else of a job {measured.rest:.4f} s")
    print(f"{'scenario':>12} {'predicted/s':>12} {'measured/s':>12} {'error':>7}")
    for name in SCENARIOS:
        said, seen = list[float](), list[float]()
        for _ in range(flags.rounds):
            jobs = draw.scenario(name, flags.users * flags.per_user)
            said.append(len(jobs) / predict(measured, jobs, flags.devices, flags.max_rows))
            seen.append(len(jobs) / server.run(jobs))
        expected, got = statistics.median(said), statistics.median(seen)
        print(f"{name:>12} {expected:12.3f} {got:12.3f} {expected / got - 1:7.1%}", flush=True)


if __name__ == "__main__":
    main()
