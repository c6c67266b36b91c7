"""Memory limits, estimates, and what is chosen to go."""

import sys
from dataclasses import replace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.components import Weights
from backend.errors import OutOfMemory
from backend.models.vae import load_vae
from backend.ops import Tiles
from backend.storage import Storage
from backend.worker.device import info
from backend.worker.memory import Memory, droppable, ran_out, weight_bytes
from backend.worker.residents import Residents

CPU = torch.device("cpu")


def tiny(settings, kind):
    """A component of the tiny checkpoint."""
    return Weights(kind, "tiny", (Storage(settings).file("checkpoints", "tiny.safetensors"),))


def test_a_claim_is_refused_where_the_limit_leaves_no_room_and_says_what_to_do(tiny_settings):
    held = [30 << 20]
    memory = Memory(CPU, replace(tiny_settings, worker_memory=100 << 20), lambda: held[0])
    assert memory.room == 70 << 20
    memory.claim("a pass", 70 << 20)
    with pytest.raises(OutOfMemory, match=r"a pass needs about 71 MB, and 70 MB are free .*limit is 100 MB"):
        memory.claim("a pass", 71 << 20)
    held[0] = 200 << 20
    assert memory.room == 0
    shown = info(CPU, memory)
    assert (shown.total, shown.free, shown.torch_total) == (100 << 20, 0, 100 << 20)


def test_without_a_limit_the_machines_memory_is_one(tiny_settings):
    memory = Memory(CPU, tiny_settings, lambda: 0)
    memory.claim("little", 1 << 20)
    with pytest.raises(OutOfMemory, match="smaller batch") as refused:
        memory.claim("much", 1 << 60)
    assert "limit" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutOfMemory("x", 1, 0, None), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_running_out(error, expected):
    assert ran_out(error) is expected


@given(st.lists(st.integers(1, 100)), st.one_of(st.none(), st.integers(-10, 600)))
def test_no_more_goes_than_is_needed_and_nothing_where_all_is_not_enough(sizes, shortage):
    count = droppable(sizes, shortage)
    if shortage is None:
        assert count == len(sizes)
    elif shortage <= 0 or sum(sizes) < shortage:
        assert count == 0
    else:
        assert sum(sizes[:count]) >= shortage > sum(sizes[: count - 1])


@pytest.mark.parametrize("kind", ["denoiser", "text_encoder", "vae"])
def test_the_size_of_a_component_is_known_before_it_is_loaded(tiny_settings, kind):
    residents = Residents(CPU, tiny_settings, lambda report: None)
    mine = tiny(tiny_settings, kind)
    residents.load(mine)
    (resident,) = residents.table()
    assert weight_bytes(mine, torch.float32) == pytest.approx(resident.nbytes, rel=0.01)


def test_tiles_need_less_than_the_whole_and_a_small_image_no_more_than_itself(tiny_settings):
    vae = load_vae(tiny(tiny_settings, "vae"), CPU, torch.float32)
    large, small = (1, 4, 256, 256), (1, 4, 16, 16)
    whole = vae.decoding_bytes(large, None)
    assert vae.decoding_bytes(large, Tiles(512, 64)) < whole / 3
    assert vae.decoding_bytes(small, Tiles(512, 64)) == vae.decoding_bytes(small, None) < whole / 20
    pixels = (1, 2048, 2048, 3)
    assert vae.encoding_bytes(pixels, Tiles(512, 64)) < vae.encoding_bytes(pixels, None) < whole


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's allocator")
def test_a_worker_at_rest_gives_back_what_it_freed(tiny_settings):
    memory = Memory(CPU, tiny_settings, lambda: 0)
    for _ in range(2):  # the first time raises the size from which on freed blocks go back at once
        freed = [torch.ones(1 << 18) for _ in range(200)]  # a megabyte each
        end = torch.ones(1 << 18)  # what stands behind them keeps the heap from shrinking by itself
        del freed
    before = psutil.Process().memory_info().rss
    memory.rest()
    assert before - psutil.Process().memory_info().rss > 100 << 20
    assert end.sum() == 1 << 18
