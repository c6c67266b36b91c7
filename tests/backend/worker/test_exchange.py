"""Values crossing process borders through shared memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.components import Component, Contents
from backend.types import Cond, Latent
from backend.worker import exchange
from backend.worker.exchange import BadSegment, MemoryFull, Value
from backend.worker.messages import Segment

TENSORS = [
    torch.arange(6, dtype=torch.float32).reshape(2, 3),
    torch.arange(6, dtype=torch.bfloat16),
    torch.full((2, 2), 0.5, dtype=torch.float16),
    torch.arange(12).reshape(3, 4).t(),
    torch.arange(12)[::5],
    torch.ones(1, 3).expand(4, 3),
    torch.tensor(3.5),
    torch.tensor(True),
    torch.empty(0, 4),
    torch.complex(torch.ones(2), torch.ones(2)).conj(),
    torch.nn.Parameter(torch.ones(2)),
]


@pytest.mark.parametrize("tensor", TENSORS, ids=lambda t: f"{t.dtype}-{tuple(t.shape)}")
def test_a_tensor_of_any_kind_comes_back_as_it_was(tensor):
    value = Value.of(((tensor, "beside"),))
    copy = Value.attach(value.segment())
    back, beside = copy.get()[0]
    copy.close()
    assert beside == "beside"
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(back, tensor.detach())


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=5))
def test_many_tensors_keep_their_order_and_values(shapes):
    tensors = tuple(torch.rand(tuple(shape)) for shape in shapes)
    value = Value.of((tensors,))
    back = exchange.read(value.segment())[0]
    value.close()
    assert all(torch.equal(a, b) for a, b in zip(tensors, back, strict=True))


def test_structured_values_and_numpy_arrays_come_back():
    latent = Latent(torch.ones(1, 4, 2, 2), batch_index=(3,), extra={"k": numpy.arange(4)})
    value = Value.of(((latent,), ((Cond(torch.ones(1, 77, 8), options={"strength": 1.0}),),)))
    (back,), ((cond,),) = exchange.read(value.segment())
    value.close()
    assert back.batch_index == (3,)
    assert back.extra["k"].tolist() == [0, 1, 2, 3]
    assert cond.options == {"strength": 1.0}


def test_what_was_read_outlives_the_file_and_writing_to_it_spoils_no_other_reader():
    value = Value.of(((torch.ones(1000),),))
    one, other = exchange.read(value.segment())[0][0], exchange.read(value.segment())[0][0]
    path = Path(value.segment().path)
    value.close()
    assert not path.exists()
    one.zero_()
    assert other.sum() == 1000


def test_a_closed_value_says_that_it_is_gone():
    value = Value.of(((1,),))
    value.close()
    value.close()
    with pytest.raises(BadSegment, match="evicted"):
        value.get()


def test_a_missing_or_cut_segment_is_named():
    with pytest.raises(BadSegment, match="/nowhere/x"):
        exchange.read(Segment("/nowhere/x", 10))
    segment = exchange.write(((torch.ones(100),),))
    os.truncate(segment.path, segment.nbytes - 4)
    with pytest.raises(BadSegment, match="bytes where"):
        exchange.read(segment)
    exchange.remove(segment)


def test_the_size_is_known_without_packing():
    value = Value.of(((Latent(torch.ones(1, 4, 8, 8)),), (torch.ones(10),)))
    assert value.nbytes == 4 * 64 * 4 + 40
    packed = value.segment().nbytes
    assert value.nbytes == 4 * 64 * 4 + 40 + packed
    attached = Value.attach(value.segment())
    attached.get()
    assert attached.nbytes == packed
    value.close()


def test_full_shared_memory_is_told_with_the_size_and_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(exchange, "folder", lambda: tmp_path)
    script = (  # RLIMIT_FSIZE stands for a full file system: writing past it fails alike
        "import resource, signal, sys, torch; from pathlib import Path; from backend.worker import exchange\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"exchange.folder = lambda: Path({str(tmp_path)!r})\n"
        "try: exchange.write(((torch.ones(10000),),))\n"
        "except exchange.MemoryFull as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "has no room for a result of 0.0 MB" in done.stdout
    assert "shm-size" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert MemoryFull(tmp_path, 3 << 20).needed == 3 << 20


def test_sweeping_removes_what_dead_servers_left_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setattr(exchange, "folder", lambda: tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = exchange.write(((1,),), owner=dead.pid)
    own = exchange.write(((1,),))
    reused = exchange.write(((1,),))
    before_birth = time.time() - 10**7
    os.utime(reused.path, (before_birth, before_birth))
    foreign = tmp_path / "tessera-notes.txt"
    foreign.touch()
    assert exchange.sweep() == 2
    assert not Path(left.path).exists()
    assert not Path(reused.path).exists()
    assert Path(own.path).exists()
    assert foreign.exists()
    assert exchange.sweep_own() == 1
    assert not Path(own.path).exists()


def test_what_a_model_file_holds_is_no_memory_of_the_result_that_says_so():
    contents = Contents("digest", 10**12, (Component("vae", "digest", 10**11),))
    value = Value.of(((contents,), (torch.zeros(3),)))
    assert value.nbytes == 12
