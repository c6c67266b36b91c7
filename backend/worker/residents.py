"""The components that a worker holds: each loaded once, whoever uses it."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal, TypeAlias, TypeVar

import torch

from backend.components import (
    Adjustment,
    ComponentKind,
    Loadable,
    LoraUse,
    Weights,
    adapter_id,
)
from backend.models.controlnet import ControlModel, load_controlnet
from backend.models.denoiser import Denoiser, load_denoiser
from backend.models.hostcopy import HostCopies
from backend.models.lora import Lora, Patch, lora_of
from backend.models.model_patch import PatchModel, load_model_patch
from backend.models.style import StyleModel, load_style
from backend.models.text import TextEncoder, load_text_encoder
from backend.models.upscaler import Upscaler, load_upscaler
from backend.models.vae import VaeModel, load_vae
from backend.models.vision import VisionEncoder, load_vision
from backend.references import Model
from backend.settings import Settings
from backend.types import ComponentId
from backend.worker.device import compute_dtype
from backend.worker.memory import Memory, droppable, weight_bytes
from backend.worker.messages import Loaded, Resident, Unloaded

# They take no LoRAs.
Plain: TypeAlias = VaeModel | ControlModel | Upscaler | VisionEncoder | StyleModel | PatchModel
Component: TypeAlias = Denoiser | TextEncoder | Plain
T = TypeVar(
    "T", Denoiser, TextEncoder, VaeModel, ControlModel, Upscaler, VisionEncoder, StyleModel, PatchModel
)
Loader: TypeAlias = Callable[[Weights, torch.device, torch.dtype, HostCopies | None], T]

_MOST_LORAS = 64  # kept per component, the least recently used goes first
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Held:
    component: Component
    label: str
    loras: dict[ComponentId, Lora]

    @property
    def nbytes(self) -> int:
        return self.component.nbytes + sum(lora.nbytes for lora in self.loras.values())

    def table(self, id: ComponentId) -> Iterator[Resident]:
        copies = self.component.copies.nbytes if isinstance(self.component, Denoiser | TextEncoder) else 0
        yield Resident(id, self.label, self.component.nbytes - copies)
        for name, lora in self.loras.items():
            yield Resident(adapter_id(name, id), f"lora {Path(lora.path).name} for {self.label}", lora.nbytes)


class Residents:
    """Loads components when they are first asked for, and keeps them until they are unloaded or evicted.

    report is told of each that comes or goes. Loading claims memory first, so it may raise OutOfMemory.
    copies: where the machine's workers share what a CPU computes with.
    """

    def __init__(
        self,
        device: torch.device,
        settings: Settings,
        report: Callable[[Loaded | Unloaded], None],
        copies: HostCopies | None = None,
    ) -> None:
        self.device, self._settings, self._report, self._copies = device, settings, report, copies
        self._held: dict[ComponentId, _Held] = {}  # the last is the most recently used
        self.memory = Memory(device, settings, self._nbytes)
        self.load_seconds = 0.0  # spent on loading, in all
        self.loads = 0

    def denoiser(self, weights: Weights, offloaded: bool = False) -> Denoiser:
        """offloaded: where it has to be loaded, its weights stay on the host.

        Raises: BadFile, UnknownFamily.
        """
        load = partial(load_denoiser, offloaded=offloaded, fits=self.memory.fits)
        return self._get(weights, Denoiser, load, offloaded)

    def text_encoder(self, weights: Weights, offloaded: bool = False) -> TextEncoder:
        """offloaded: as `denoiser`. Raises: BadFile, UnknownFamily."""
        load = partial(load_text_encoder, offloaded=offloaded, fits=self.memory.fits)
        return self._get(weights, TextEncoder, load, offloaded)

    def vae(self, weights: Weights) -> VaeModel:
        """Raises: BadFile, UnknownFamily."""
        return self._get(weights, VaeModel, load_vae)

    def controlnet(self, weights: Weights) -> ControlModel:
        """Raises: BadFile."""
        return self._get(weights, ControlModel, load_controlnet)

    def upscaler(self, weights: Weights) -> Upscaler:
        """Raises: BadFile."""
        return self._get(weights, Upscaler, load_upscaler)

    def clip_vision(self, weights: Weights) -> VisionEncoder:
        """Raises: BadFile."""
        return self._get(weights, VisionEncoder, load_vision)

    def style_model(self, weights: Weights) -> StyleModel:
        """Raises: BadFile."""
        return self._get(weights, StyleModel, load_style)

    def model_patch(self, weights: Weights) -> PatchModel:
        """Raises: BadFile."""
        return self._get(weights, PatchModel, load_model_patch)

    def load(self, what: Loadable) -> None:
        """Have a component resident, or a LoRA for one that is.

        Raises: BadFile, UnknownFamily, OutOfMemory.
        """
        if isinstance(what, Weights):
            self._load(what)
        elif (held := self._held.get(what.target.id)) is not None:
            self._lora(held, what.target.id, LoraUse(what.lora, 1.0))

    def _load(self, weights: Weights) -> None:
        match weights.kind:
            case "denoiser":
                self.denoiser(weights)
            case "text_encoder":
                self.text_encoder(weights)
            case "vae":
                self.vae(weights)
            case "controlnet":
                self.controlnet(weights)
            case "upscaler":
                self.upscaler(weights)
            case "clip_vision":
                self.clip_vision(weights)
            case "style_model":
                self.style_model(weights)
            case "model_patch":
                self.model_patch(weights)

    def patches(self, weights: Weights, uses: Sequence[Adjustment]) -> tuple[Patch, ...]:
        """LoRAs loaded for the component of `weights`, which must be resident. Raises: BadFile."""
        held = self._held[weights.id]
        return tuple(Patch(self._lora(held, weights.id, use), use.strength) for use in uses)

    def merge(self, model: Model) -> None:
        """Have a model's LoRAs merged into a copy of its weights from the next pass on that only they run in.

        No effect on what is not resident.
        """
        held = self._held.get(model.weights.id)
        if held is not None and isinstance(held.component, Denoiser):
            held.component.copies.ask(self.patches(model.weights, model.loras))

    def unload(self, components: Sequence[ComponentId] | None) -> None:
        """Drop the named components and LoRAs, or all; running ops keep theirs until they end."""
        for id in list(self._held) if components is None else components:
            if id in self._held:
                self._drop(id, "asked")
            else:
                self._drop_adapter(id)
        self.memory.trim()

    def _drop_adapter(self, id: ComponentId) -> None:
        for target, held in self._held.items():
            for name in [name for name in held.loras if id == adapter_id(name, target)]:
                del held.loras[name]

    def evict(self, shortage: int | None, keep: Collection[object]) -> int:
        """Make room: drop what is idle, the least recently used first, until `shortage` bytes are free (None:
        all of it). Nothing is dropped where all of it would not be enough.

        Copies of weights with LoRAs in them go before anything else: side paths do without.
        keep: what running ops use, the ids of components and LoRAs. Returns: how many components, LoRAs and
        components' copies went.
        """
        freed = [
            held.component.copies.give_up()
            for held in self._held.values()
            if isinstance(held.component, Denoiser | TextEncoder)
        ]
        if shortage is not None:
            shortage -= sum(freed)
        idle = list(self._idle(keep))
        chosen = droppable([nbytes for _, _, nbytes in idle], shortage)
        for id, lora, _ in idle[:chosen]:
            if lora is None:
                self._drop(id, "evicted")
            else:
                del self._held[id].loras[lora]
        gone = chosen + sum(1 for nbytes in freed if nbytes)
        if gone:
            self.memory.trim()
        return gone

    def table(self) -> tuple[Resident, ...]:
        """Components and their LoRAs. Copies made with these go before anything else where room is short, and
        those that `plan()` asked for it counts itself.
        """
        return tuple(resident for id, held in self._held.items() for resident in held.table(id))

    def _nbytes(self) -> int:
        return sum(held.nbytes for held in self._held.values())

    def _idle(self, keep: Collection[object]) -> Iterator[tuple[ComponentId, ComponentId | None, int]]:
        """What `evict` may drop, in order: LoRAs of components that stay, then components with theirs."""
        for id, held in self._held.items():
            if id in keep:
                yield from ((id, name, lora.nbytes) for name, lora in held.loras.items() if name not in keep)
        yield from ((id, None, held.nbytes) for id, held in self._held.items() if id not in keep)

    def _drop(self, id: ComponentId, reason: Literal["asked", "evicted"]) -> None:
        held = self._held.pop(id, None)
        if held is not None:
            _log.info("unloaded %s (%s)", held.label, reason)
            self._report(Unloaded(id, held.label, held.nbytes, reason))

    def _get(self, weights: Weights, kind: type[T], load: Loader[T], offloaded: bool = False) -> T:
        held = self._held.pop(weights.id, None)
        if held is None:
            begun, name = perf_counter(), label(weights.kind, weights)
            dtype = compute_dtype(self.device, self._settings, weights.kind, weights.precision)
            if not offloaded:
                self.memory.claim(f"the {name}", weight_bytes(weights, dtype))
            held = _Held(load(weights, self.device, dtype, self._copies), name, {})
            if not offloaded:
                self.memory.require_spare(f"the {name}", held.nbytes)
            seconds = perf_counter() - begun
            self.load_seconds, self.loads = self.load_seconds + seconds, self.loads + 1
            _log.info("loaded %s: %.0f MB in %.2f s", name, held.nbytes / 2**20, seconds)
            late = isinstance(held.component, ControlModel) and held.component.late
            self._report(Loaded(weights.id, name, held.nbytes, seconds, late))
        self._held[weights.id] = held
        if not isinstance(held.component, kind):
            raise TypeError(f"{held.label} is no {kind.__name__}")
        return held.component

    def _lora(self, held: _Held, target: ComponentId, use: Adjustment) -> Lora:
        id = use.weights.id
        lora = held.loras.pop(id, None)
        if lora is None:
            if isinstance(held.component, Plain):
                raise TypeError(f"{held.label} takes no LoRA")
            begun = perf_counter()
            if isinstance(use, LoraUse):
                self.memory.claim(f"the LoRA {Path(use.file.path).name}", use.file.size)
            lora = lora_of(use, held.component)
            seconds = perf_counter() - begun
            self.load_seconds += seconds
            if isinstance(use, LoraUse):
                name = f"lora {Path(use.file.path).name} for {held.label}"
                self._report(Loaded(adapter_id(id, target), name, lora.nbytes, seconds))
        held.loras[id] = lora  # the last is the most recently used
        while len(held.loras) > _MOST_LORAS:
            del held.loras[next(iter(held.loras))]
        return lora


def label(kind: ComponentKind, weights: Weights) -> str:
    """For the table and the log: the role and the files' names."""
    name = f"{kind} {weights.part}" if weights.part else kind
    return f"{name} of {', '.join(Path(file.path).name for file in weights.files)}"
