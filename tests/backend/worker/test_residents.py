"""What a worker says that it holds: components and their LoRAs, each by itself."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.components import Adapter, File, LoraUse, Weights
from backend.models.merged import Stack
from backend.settings import Settings
from backend.worker.messages import Loaded, Unloaded
from backend.worker.residents import Residents

CPU = torch.device("cpu")
SITE = "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"  # 64 x 64 in the tiny model
MATRIX = 4 * 64 * 64  # bytes


def weights_at(path: Path, kind: str) -> Weights:
    found = path.stat()
    return Weights(kind, path.stem, (File(str(path), found.st_size, found.st_mtime_ns, found.st_ino),))  # type: ignore[arg-type]


@pytest.fixture
def lora(tmp_path: Path) -> Weights:
    path = tmp_path / "style.safetensors"
    pair = {"lora_up.weight": torch.ones(64, 1), "lora_down.weight": torch.ones(1, 64)}
    save_file({f"lora_unet_{SITE}.{name}": tensor for name, tensor in pair.items()}, path)
    return weights_at(path, "lora")


class Desk:
    """Residents with a denoiser, and what they reported."""

    def __init__(self, settings: Settings) -> None:
        self.told: list[Loaded | Unloaded] = []
        self.residents = Residents(CPU, settings, self.told.append)
        self.base = weights_at(settings.base_directory / "models/checkpoints/tiny.safetensors", "denoiser")
        self.denoiser = self.residents.denoiser(self.base)

    def held(self) -> dict[str, int]:
        return {resident.component: resident.nbytes for resident in self.residents.table()}


@pytest.fixture
def desk(tiny_settings: Settings) -> Desk:
    return Desk(tiny_settings)


def test_a_lora_is_loaded_ahead_for_its_network_told_and_dropped_by_itself(desk: Desk, lora: Weights):
    alone, adapter = desk.held(), Adapter(lora, desk.base)
    desk.residents.load(adapter)
    (loaded,) = [report for report in desk.told if report.component == adapter.id]
    assert isinstance(loaded, Loaded)
    assert desk.held() == {**alone, adapter.id: loaded.nbytes}
    assert loaded.nbytes > 0
    desk.residents.unload((adapter.id,))
    assert desk.held() == alone


def test_a_lora_without_its_network_is_not_loaded(desk: Desk, lora: Weights):
    desk.residents.load(Adapter(lora, Weights("denoiser", "elsewhere", ())))
    assert len(desk.held()) == 1


def test_a_copy_with_loras_in_it_is_no_part_of_its_network(desk: Desk, lora: Weights):
    stack: Stack = desk.residents.patches(desk.base, (LoraUse(lora, 0.5),))
    before = desk.held()
    desk.denoiser.copies.weight(stack, next(iter(stack[0].lora.changes)))
    assert desk.denoiser.copies.nbytes == MATRIX
    assert desk.held() == before


def test_no_copy_is_made_that_the_device_has_no_memory_for(tiny_settings: Settings, lora: Weights):
    desk = Desk(tiny_settings)
    stack = desk.residents.patches(desk.base, (LoraUse(lora, 0.5),))
    desk.residents.memory.limit = sum(desk.held().values()) + MATRIX - 1
    assert not desk.denoiser.copies.whole(stack, 10**9)
    desk.residents.memory.limit += 1
    assert desk.denoiser.copies.whole(stack, 1)
