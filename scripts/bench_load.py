"""What loading a checkpoint takes: memory and time until its first step is done.

    python -m scripts.bench_load CHECKPOINT [--size 64] [--cold]

Starts a server of its own on the file's folder, queues one step with this checkpoint, and samples the memory
of all its processes meanwhile (PSS: shared pages are counted once). Prints what was held at most beyond what
the idle server has, as a share of the file's size, and the times; `--cold` puts the file out of the page
cache first.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from tests.serving import Server, error_of, succeeded

_EVERY = 0.05  # seconds between samples


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_load", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--size", type=int, default=64, help="side of the picture, in pixels")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the page cache")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tessera-load-"))
    try:
        _measure(folder, asked.checkpoint.resolve(), asked.size, asked.cold)
    finally:
        shutil.rmtree(folder)


def _measure(folder: Path, checkpoint: Path, size: int, cold: bool) -> None:
    models = folder / "models" / "checkpoints"
    models.mkdir(parents=True)
    (models / checkpoint.name).symlink_to(checkpoint)
    total = checkpoint.stat().st_size
    server = Server(folder, ("--cpu", "--workers", "1")).start()
    try:
        assert server.process is not None
        time.sleep(3.0)  # the workers are up
        before = _held(server.process.pid)
        if cold:
            _forget(checkpoint)
        watch = _Watch(server.process.pid)
        begun = time.perf_counter()
        entry = _run(server, checkpoint.name, size)
        seconds, most = time.perf_counter() - begun, watch.stop()
        if not succeeded(entry):
            raise SystemExit(f"the prompt failed: {error_of(entry)}")
        again = time.perf_counter()
        _run(server, checkpoint.name, size, seed=2)
        warm = time.perf_counter() - again
    finally:
        server.stop()
    grown = most - before
    loading = max(seconds - warm, 1e-3)
    share, source = grown / total, "from the disk" if cold else "from the page cache"
    print(f"{checkpoint.name}: {total / 1e6:.0f} MB, {source}")
    print(f"held at most: {grown / 1e6:.0f} MB beyond {before / 1e6:.0f} MB idle, {share:.2f} x the file")
    print(f"first step after {seconds:.1f} s, {loading:.1f} s of it for identifying and loading")
    print(f"{total / 1e6 / loading:.0f} MB/s; the same again {warm:.1f} s")


def _run(server: Server, name: str, size: int, seed: int = 1) -> dict[str, Any]:
    """One step, without decoding: text encoders and the denoiser are needed, the VAE is not."""
    prompt = {
        "1": _node("CheckpointLoaderSimple", ckpt_name=name),
        "2": _node("CLIPTextEncode", clip=["1", 1], text="a red fox"),
        "3": _node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "4": _node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["2", 0],
            latent_image=["3", 0],
            seed=seed,
            steps=1,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "5": _node("SaveLatent", samples=["4", 0], filename_prefix="load"),
    }
    status, answer = server.post("/prompt", {"prompt": prompt})
    if status != 200:
        raise SystemExit(f"the prompt was refused: {answer}")
    return server.finished(str(answer["prompt_id"]))


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _held(pid: int) -> int:
    """Bytes of a process and all below it, shared ones counted once."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


def _forget(path: Path) -> None:
    """Put a file out of the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Watch:
    """Samples memory until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(_EVERY):
            self._most = max(self._most, _held(self._pid))

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most


if __name__ == "__main__":
    main()
