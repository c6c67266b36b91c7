"""The components that a worker holds: each loaded once, whoever uses it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeAlias, TypeVar

import torch

from backend.models.denoiser import Denoiser, load_denoiser
from backend.models.lora import Lora, Patch, load_lora
from backend.models.text import TextEncoder, load_text_encoder
from backend.models.vae import VaeModel, load_vae
from backend.references import ComponentKind, File, LoraUse, Weights
from backend.settings import Settings
from backend.types import ComponentId
from backend.worker.device import compute_dtype
from backend.worker.messages import Resident

Component: TypeAlias = Denoiser | TextEncoder | VaeModel
Loader: TypeAlias = Callable[[Weights, torch.device, torch.dtype], Component]
T = TypeVar("T", Denoiser, TextEncoder, VaeModel)

_MOST_LORAS = 64  # kept per component, the least recently used goes first
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Held:
    component: Component
    label: str
    loras: dict[File, Lora]


class Residents:
    """Loads components when they are first asked for, and keeps them until they are unloaded."""

    def __init__(self, device: torch.device, settings: Settings) -> None:
        self.device, self._settings = device, settings
        self._held: dict[ComponentId, _Held] = {}
        self.load_seconds = 0.0  # spent on loading, in all

    def denoiser(self, weights: Weights) -> Denoiser:
        """Raises: BadFile, UnknownFamily."""
        return self._get(weights, Denoiser, load_denoiser)

    def text_encoder(self, weights: Weights) -> TextEncoder:
        """Raises: BadFile, UnknownFamily."""
        return self._get(weights, TextEncoder, load_text_encoder)

    def vae(self, weights: Weights) -> VaeModel:
        """Raises: BadFile, UnknownFamily."""
        return self._get(weights, VaeModel, load_vae)

    def patches(self, weights: Weights, uses: Sequence[LoraUse]) -> tuple[Patch, ...]:
        """LoRAs loaded for the component of `weights`, which must be resident. Raises: BadFile."""
        return tuple(Patch(self._lora(self._held[weights.id], use.file), use.strength) for use in uses)

    def unload(self, components: Sequence[ComponentId] | None) -> None:
        """Drop the named components, or all; running ops keep theirs until they end."""
        for id in list(self._held) if components is None else components:
            if (held := self._held.pop(id, None)) is not None:
                _log.info("unloaded %s", held.label)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def table(self) -> tuple[Resident, ...]:
        return tuple(
            Resident(id, held.label, held.component.nbytes + sum(lora.nbytes for lora in held.loras.values()))
            for id, held in self._held.items()
        )

    def _get(
        self, weights: Weights, kind: type[T], load: Callable[[Weights, torch.device, torch.dtype], T]
    ) -> T:
        held = self._held.get(weights.id)
        if held is None:
            begun = perf_counter()
            component = load(weights, self.device, compute_dtype(self.device, self._settings, weights.kind))
            self.load_seconds += perf_counter() - begun
            held = self._held[weights.id] = _Held(component, label(weights.kind, weights), {})
            _log.info("loaded %s: %.0f MB", held.label, component.nbytes / 2**20)
        if not isinstance(held.component, kind):
            raise TypeError(f"{held.label} is no {kind.__name__}")
        return held.component

    def _lora(self, held: _Held, file: File) -> Lora:
        lora = held.loras.pop(file, None)
        if lora is None:
            if isinstance(held.component, VaeModel):
                raise TypeError(f"{held.label} takes no LoRA")
            begun = perf_counter()
            lora = load_lora(file, held.component)
            self.load_seconds += perf_counter() - begun
        held.loras[file] = lora  # the last is the most recently used
        while len(held.loras) > _MOST_LORAS:
            del held.loras[next(iter(held.loras))]
        return lora


def label(kind: ComponentKind, weights: Weights) -> str:
    """For the table and the log: the role and the files' names."""
    return f"{kind} of {', '.join(Path(file.path).name for file in weights.files)}"
