"""Measure Tessera beside ComfyUI on this machine: the same models, the same requests, in turn.

    make bench COMFYUI=path/to/ComfyUI [COMFYUI_PYTHON=its/python] [ARGS="--scenario overhead cached --write"]

Needs a ComfyUI 0.3.64 that runs (a checkout and a Python with its requirements) and the shared bench folder.
Nothing of ComfyUI is part of this project; its server is started as a program and spoken to over HTTP.
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TESSERA_SHARED", ROOT.parent / "shared"))
CACHE = ROOT / ".cache" / "bench"
WITHOUT_MODEL = ("overhead", "cached", "throughput", "big-image")
WITH_MODEL = ("sd-users", "sd-same", "sd-lora", "sd-ckpt", "sd-iterate", "sd-mixed")
START = "start"  # not a scenario of the driver: seconds until system_stats answers
FIGURES = ("s", "per_s", "p50_ms", "p99_ms", "pss_mib")
Rows = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure. command: what starts it, without base folder and port."""

    name: str
    command: tuple[str, ...]
    cwd: Path


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # and its servers with it
    if not (SHARED / "bench" / "bench_server.py").is_file():
        sys.exit(
            f"{SHARED / 'bench'} is missing: put `shared` beside the checkout, or name it in TESSERA_SHARED."
        )
    make_models(asked.scenario)
    common = ("--cpu", "--force-fp32")
    python = asked.comfyui_python or sys.executable
    front_end = ("--front-end-root", str(front_end_root()))  # so that no front end need be installed for it
    tessera = Peer(
        "tessera", (str(Path(sys.executable).parent / "tessera"), "serve", "--workers", "1", *common), ROOT
    )
    comfyui = Peer(
        "comfyui", (python, "main.py", *common, *front_end, "--disable-all-custom-nodes"), asked.comfyui
    )
    peers = [tessera] if asked.alone else [comfyui, tessera]
    results = measure(peers, asked.scenario, asked.driver, asked.rounds)
    lines = table(results)
    print("\n".join(lines))
    if asked.write:
        path = ROOT / "BENCHMARKS.md"
        text = report(lines, asked.scenario, asked.driver, asked.rounds)
        path.write_text(text + other_sections(path))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--comfyui", type=Path, help="the folder that holds ComfyUI's main.py")
    parser.add_argument("--comfyui-python", default="", help="the Python that runs it (default: this one)")
    parser.add_argument("--scenario", nargs="+", default=[*WITHOUT_MODEL, *WITH_MODEL])
    parser.add_argument("--driver", default="", help="more flags of bench_server.py, as one text")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each scenario; the best counts")
    parser.add_argument("--alone", action="store_true", help="measure Tessera only")
    parser.add_argument("--write", action="store_true", help="write BENCHMARKS.md")
    asked = parser.parse_args()
    if not asked.alone and not (asked.comfyui and (asked.comfyui / "main.py").is_file()):
        parser.error("name a ComfyUI checkout: make bench COMFYUI=path (or ARGS=--alone)")
    return asked


def make_models(scenarios: Sequence[str]) -> None:
    """The bench checkpoints and LoRAs, once; 1.2 GB. Nothing where no scenario needs a model."""
    models = CACHE / "models"
    if not set(scenarios) & set(WITH_MODEL) or (models / "loras" / "bench_lora_b.safetensors").exists():
        return
    print(f"making the bench models in {models}", flush=True)
    subprocess.run([sys.executable, str(SHARED / "bench" / "make_models.py"), str(models)], check=True)


def front_end_root() -> Path:
    import comfyui_frontend_package

    return Path(comfyui_frontend_package.__file__ or "").parent / "static"


def measure(peers: Sequence[Peer], scenarios: Sequence[str], flags: str, rounds: int) -> dict[str, Rows]:
    """Start the servers; run every scenario `rounds` times against each in turn; end them.

    Both are up all the time (an idle one takes no time), so that what else the machine does hits both alike.
    Caches are emptied before each run, and each round has requests of its own.
    """
    with ExitStack() as stack:
        up = {peer: stack.enter_context(running(peer)) for peer in peers}
        results: dict[str, Rows] = {
            peer.name: {START: {"s": round(ready, 2)}} for peer, (_, _, ready) in up.items()
        }
        for scenario in scenarios:
            for turn in range(rounds):
                for peer, (url, pid, _) in up.items():
                    forget(url)
                    common = ["--url", url, "--pid", str(pid), "--seed", str(turn)]
                    row = run_once(peer, scenario, [*common, *flags.split()])
                    results[peer.name][scenario] = best(results[peer.name].get(scenario), row)
            print(scenario, {name: rows[scenario] for name, rows in results.items()}, flush=True)
        return results


def forget(url: str) -> None:
    """Empty a server's result cache; its models stay."""
    body = json.dumps({"free_memory": True, "unload_models": False}).encode()
    request = urllib.request.Request(f"{url}/free", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30):
        time.sleep(1)  # ComfyUI does it when its loop comes round


def run_once(peer: Peer, scenario: str, flags: Sequence[str]) -> dict[str, float]:
    """One run of the driver: its figures. Ends the program where the server refuses or fails."""
    driver = [sys.executable, str(SHARED / "bench" / "bench_server.py"), *flags, scenario]
    done = subprocess.run(driver, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{peer.name}, {scenario}: {done.stderr[-2000:]}\nIts log: {log_of(peer)}")
    return {
        name: value for name, value in json.loads(done.stdout.splitlines()[-1]).items() if name in FIGURES
    }


def best(before: Mapping[str, float] | None, row: Mapping[str, float]) -> dict[str, float]:
    """Figure by figure the better of two runs; memory as it is after the last."""
    if before is None:
        return dict(row)
    kept = {name: row[name] if gain(name, before[name], row[name]) > 1 else before[name] for name in row}
    return kept | {name: row[name] for name in ("pss_mib",) if name in row}


@contextmanager
def running(peer: Peer) -> Iterator[tuple[str, int, float]]:
    """A server on a free port: its URL, its pid, and the seconds until it answered."""
    base = CACHE / peer.name
    for folder in ("custom_nodes", "input", "output", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    if not (base / "models").exists():
        (CACHE / "models").mkdir(parents=True, exist_ok=True)
        (base / "models").symlink_to(CACHE / "models")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [*peer.command, "--base-directory", str(base), "--port", str(port)]
    url, begun = f"http://127.0.0.1:{port}", time.monotonic()
    with log_of(peer).open("wb") as log:
        process = subprocess.Popen(command, cwd=peer.cwd, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(url, process, log_of(peer))
        ready = time.monotonic() - begun
        time.sleep(10)  # what a server does behind its open port is no part of the scenarios
        yield url, process.pid, ready
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode}; see {log}")
        try:
            with urllib.request.urlopen(f"{url}/system_stats", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the server did not answer within a minute; see {log}")


def log_of(peer: Peer) -> Path:
    return CACHE / f"{peer.name}.log"


def table(results: Mapping[str, Rows]) -> list[str]:
    """Markdown: both servers' figures and the ratio, above 1 where Tessera is better."""
    lines = [
        "| scenario | figure | ComfyUI | Tessera | Tessera is better by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for scenario, row in results["tessera"].items():
        for figure in FIGURES:
            if figure not in row:
                continue
            other = results.get("comfyui", {}).get(scenario, {}).get(figure)
            ratio = "" if other is None else f"{gain(figure, other, row[figure]):.2f} x"
            lines.append(
                f"| {scenario} | {figure} | {'' if other is None else other} | {row[figure]} | {ratio} |"
            )
    return lines


def gain(figure: str, other: float, ours: float) -> float:
    """How many times better ours is: more per second, less of everything else."""
    better, worse = (ours, other) if figure == "per_s" else (other, ours)
    return better / worse if worse else float("inf")


def other_sections(path: Path) -> str:
    """What the file has beside the servers' figures: it is measured by other programs, and stays."""
    _, heading, rest = (path.read_text() if path.is_file() else "").partition("\n## What bounds them\n")
    return heading + rest


def report(lines: Sequence[str], scenarios: Sequence[str], flags: str, rounds: int) -> str:
    """The servers' part of BENCHMARKS.md."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    version = "".join(head.stdout.split())
    more = f" --driver '{flags}'" if flags else ""
    command = f'make bench COMFYUI=ComfyUI ARGS="--write --scenario {" ".join(scenarios)}{more}"'
    memory = psutil.virtual_memory().total >> 30
    return f"""# Benchmarks

Tessera beside ComfyUI 0.3.64 on the same machine, driven over HTTP and websocket by the same client, run and
run about while the other idles; the best of {rounds} runs of each. Compare ratios: the seconds are this
machine's.

- {datetime.now(UTC):%Y-%m-%d}, commit {version}; {os.cpu_count()} cores ({platform.machine()}),
  {memory} GB, no GPU; load average {os.getloadavg()[1]:.1f} (2 would be these runs alone)
- both with `--cpu --force-fp32`; Tessera with one worker; ComfyUI with its default cache and no
  custom nodes
- checkpoints: reduced SD1.5 (UNet 160 MB, full-size CLIP-L and VAE) of random weights; {
        flags or "default sizes"
    }

{chr(10).join(lines)}

What the scenarios are: `overhead` one client, distinct tiny prompts one after the other; `cached` the
same prompt again; `throughput` eight clients at once; `big-image` 1024 x 1024 PNGs by four clients;
`sd-users` other seeds and texts on one checkpoint; `sd-same` the same prompt by all users; `sd-lora`
two LoRAs in turn; `sd-ckpt` two checkpoints that share text encoder and VAE; `sd-iterate` the same
first pass with another second one each time; `sd-mixed` all of it interleaved. `p50_ms`, `p99_ms`: from
POST to finish; `per_s`: prompts a second; `pss_mib`: memory of all processes after it, shared pages
counted once; `start`: seconds until `/system_stats` answers.

## To repeat

A ComfyUI checkout of 0.3.64 with its requirements in a Python of its own, this project set up by `make
setup`, the folder `shared` (its `bench/` makes the models and drives the servers) beside the checkout,
and an otherwise idle machine:

    {command}

`COMFYUI_PYTHON=path` names ComfyUI's Python where it isn't this project's.
"""


if __name__ == "__main__":
    sys.exit(main())
