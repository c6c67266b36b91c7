import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.components import Weights
from backend.errors import BadFile
from backend.models import hostcopy
from backend.models.hostcopy import Form, HostCopies, HostCopy
from backend.models.vae import load_vae
from tests.backend.models.conftest import CPU, weights_of

HALF = {
    "matrix": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "kernel": torch.arange(120, dtype=torch.float16).reshape(5, 4, 3, 2),
    "ids": torch.arange(3),
    "nothing": torch.zeros(0, 4, dtype=torch.float16),
    "number": torch.tensor(2.5, dtype=torch.float16),
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no copies are shared there")


@pytest.fixture
def copy(tmp_path: Path) -> HostCopy:
    return HostCopies(f"{tmp_path}/t-1-").of(Weights("vae", "digest", ()))


def source() -> Iterator[tuple[str, Tensor]]:
    yield from HALF.items()


def never() -> Iterator[tuple[str, Tensor]]:
    raise AssertionError("the copy is there already")


def fine() -> None:
    pass


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("form", [Form(torch.float32), Form(torch.float32, True), Form(torch.float16, True)])
def test_a_copy_holds_every_tensor_in_its_form(copy: HostCopy, form: Form):
    made = copy.make(form, source, fine)
    found = copy.find(form)
    for tensors in (made, found):
        assert tensors is not None
        assert tensors.keys() == HALF.keys()
        for name, value in tensors.items():
            assert torch.equal(value.to(HALF[name].dtype), HALF[name])
            assert form.fits(name, value)
    assert found["ids"].dtype == torch.int64


def test_what_is_there_is_not_made_again(copy: HostCopy):
    held = copy.make(Form(torch.float32), source, fine)
    assert copy.make(Form(torch.float32), never, fine) is not None
    assert held is not None


def test_writing_to_a_tensor_changes_no_one_elses(copy: HostCopy):
    mine, theirs = copy.make(Form(torch.float32), source, fine), copy.find(Form(torch.float32))
    assert mine is not None
    mine["matrix"].fill_(7)
    assert torch.equal(theirs["matrix"], HALF["matrix"].float())
    assert torch.equal(copy.find(Form(torch.float32))["matrix"], HALF["matrix"].float())


def test_the_last_tensor_takes_the_copy_with_it(copy: HostCopy, tmp_path: Path):
    one, other = copy.make(Form(torch.float32), source, fine), copy.find(Form(torch.float32))
    kept = one["matrix"]
    del one, other
    gc.collect()
    assert files(tmp_path) == ["t-1-weights-vae-digest-float32"]
    assert torch.equal(kept, HALF["matrix"].float())
    del kept
    gc.collect()
    assert files(tmp_path) == []
    assert copy.find(Form(torch.float32)) is None


HOLD = """
import sys, torch
from backend.models.hostcopy import Form, HostCopy
held = HostCopy(sys.argv[1]).find(Form(torch.float32))
print(held["matrix"].sum().item(), flush=True)
sys.stdin.read()
"""


def test_another_process_keeps_the_copy_and_its_death_frees_it(copy: HostCopy, tmp_path: Path):
    mine = copy.make(Form(torch.float32), source, fine)
    command = [sys.executable, "-c", HOLD, copy.stem]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "15.0\n"
        del mine
        gc.collect()
        assert files(tmp_path) != []
        other.kill()
        other.wait()
    assert copy.find(Form(torch.float32)) is not None  # the dead process's lock is gone, its copy is of use
    gc.collect()
    assert files(tmp_path) == []


def test_a_source_that_changed_leaves_no_copy(copy: HostCopy, tmp_path: Path):
    def changed() -> None:
        raise BadFile("a", "the file changed", "Again.")

    with pytest.raises(BadFile):
        copy.make(Form(torch.float32), source, changed)
    assert files(tmp_path) == []


def test_a_full_memory_is_said_and_each_keeps_its_own(
    copy: HostCopy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(hostcopy.os, "pwrite", full)
    assert copy.make(Form(torch.float32), source, fine) is None
    assert "has no room for weights that workers could share" in caplog.text
    assert files(tmp_path) == []


def test_a_component_works_the_same_from_its_copy(tiny: Path, tmp_path: Path):
    weights, copies = weights_of(tiny, "vae"), HostCopies(f"{tmp_path}/t-1-")
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    own = load_vae(weights, CPU, torch.float32)
    shared = load_vae(weights, CPU, torch.float32, copies)
    assert torch.equal(own.decode(latent), shared.decode(latent))
    assert own.nbytes == shared.nbytes


MEASURE = """
import ctypes, sys, os, psutil, torch
from backend.models.denoiser import load_denoiser
from backend.models.hostcopy import HostCopies
from backend.components import File, Weights
path, prefix = sys.argv[1:]
state = os.stat(path)
file = File(path, state.st_size, state.st_mtime_ns, state.st_ino)
torch.set_num_threads(1)
before = psutil.Process().memory_full_info().pss
weights, cpu = Weights("denoiser", "d", (file,)), torch.device("cpu")
denoiser = load_denoiser(weights, cpu, torch.float32, HostCopies(prefix))
sum(float(value.sum()) for value in (*denoiser.module.parameters(), *denoiser.module.buffers()))
ctypes.CDLL(None).malloc_trim(0)  # as a worker at rest does
print("ready", flush=True)
sys.stdin.readline()
print(psutil.Process().memory_full_info().pss - before, denoiser.nbytes, flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the proportional set size is Linux's")
@pytest.mark.parity
def test_two_workers_hold_one_copy_of_the_weights(model: Callable[[str], Path], tmp_path: Path):
    """The sum of what loading adds to the proportional set sizes is about the weights' size, once."""
    command = [sys.executable, "-c", MEASURE, str(model("sd15")), f"/dev/shm/tessera-{os.getpid()}-"]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        added, sizes = [], []
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
            pss, nbytes = map(int, worker.stdout.readline().split())
            added.append(pss)
            sizes.append(nbytes)
        assert sizes[0] == sizes[1] > 200 << 20
        assert sum(added) < 1.2 * sizes[0]
    finally:
        for worker in workers:
            worker.communicate("\n")
        for path in Path("/dev/shm").glob(f"tessera-{os.getpid()}-*"):
            path.unlink()
