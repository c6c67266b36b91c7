"""What two files have in common exists once: by content, whatever the files are called."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from backend.worker.exchange import prefix
from tests.build import a_prompt
from tests.serving import Server, error_of, succeeded

pytestmark = pytest.mark.server


def picture(server: Server, checkpoint: str) -> np.ndarray:
    entry = server.run(a_prompt(checkpoint, steps=2))
    assert succeeded(entry), entry["status"]
    return np.asarray(Image.open(server.outputs(entry)[0]))


def tables(server: Server) -> list[dict]:
    return [d["table"] for d in server.get("/tessera/pool")["devices"] if d["id"] != "host"]


def residents(server: Server) -> list[str]:
    """The kinds of the resident components, one word each."""
    return sorted(r["component"].split("@")[0] for t in tables(server) for r in t["resident"])


def finetuned(source: Path, target: Path) -> None:
    """A checkpoint that shares its text encoder and its VAE with another."""
    changed = {n: t * 0.5 if ".out.2." in n else t for n, t in load_file(source).items()}
    save_file(changed, target)


def test_equal_components_of_different_files_are_one(own_server: Server):
    folder = own_server.base / "models" / "checkpoints"
    demo, twin, tuned = (folder / f"{name}.safetensors" for name in ("demo", "twin", "tuned"))
    shutil.copyfile(demo, twin)
    finetuned(demo, tuned)
    own_server.start()

    first = picture(own_server, "demo.safetensors")
    (before,) = tables(own_server)
    assert np.array_equal(picture(own_server, "twin.safetensors"), first)
    (after,) = tables(own_server)
    assert after["forwards"] == before["forwards"]  # the same model: its results are there
    assert residents(own_server) == ["denoiser", "text_encoder", "vae"]

    other = picture(own_server, "tuned.safetensors")
    assert not np.array_equal(other, first)
    assert residents(own_server) == ["denoiser", "denoiser", "text_encoder", "vae"]

    demo.unlink()  # linked elsewhere: other tests use what it was
    shutil.copyfile(tuned, demo)
    assert np.array_equal(picture(own_server, "demo.safetensors"), other)  # without a restart
    assert residents(own_server) == ["denoiser", "denoiser", "text_encoder", "vae"]


def test_a_file_that_cannot_be_identified_fails_at_its_loader(server: Server):
    path = server.base / "models" / "checkpoints" / "broken.safetensors"
    save_file({"w": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-4])
    for _ in range(2):  # it is tried again each time
        error = error_of(server.run(a_prompt("broken.safetensors")))
        assert (error["node_id"], error["node_type"]) == ("4", "CheckpointLoaderSimple")
        assert "broken.safetensors: the file is cut off" in error["exception_message"]


def test_workers_share_one_host_copy_which_goes_with_the_server(own_server: Server):
    own_server.flags = ("--cpu", "--force-fp32", "--workers", "2")
    own_server.start()
    copies = Path(f"{prefix(own_server.process.pid)}x").parent
    jobs = [own_server.submit(a_prompt(seed=seed, text=f"{seed} boats", steps=4)) for seed in range(6)]
    assert all(succeeded(own_server.finished(job)) for job in jobs)
    pattern = f"tessera-{own_server.process.pid}-*"
    names = [p.name.partition("-weights-")[2] for p in copies.glob(pattern) if "weights" in p.name]
    kinds = sorted(name.partition("-")[0] for name in names if not name.endswith(".lock"))
    assert kinds == ["denoiser", "text_encoder", "vae"]
    own_server.stop()
    assert list(copies.glob(pattern)) == []
