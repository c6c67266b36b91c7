"""How a worker shows its runs while they are sampled."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from backend.errors import TesseraError
from backend.models.vae import tiny_decoder
from backend.storage import Storage
from backend.worker.preview import Shown

_log = logging.getLogger(__name__)


class Previews:
    """How runs are shown; the decoders of tiny autoencoders are kept."""

    def __init__(self, storage: Storage, device: torch.device) -> None:
        self._storage, self._device = storage, device
        self._decoders: dict[str, Callable[[Tensor], Tensor] | None] = {}

    def of(self, method: str, size: int, tiny: str) -> Shown | None:
        """For a client's method (none, auto, latent2rgb, taesd) and the family's tiny autoencoder.

        Without its file a run is shown by colours alone, as ComfyUI does it.
        """
        if method == "none":
            return None
        return Shown(size, self._decoder(tiny) if method == "taesd" and tiny else None)

    def _decoder(self, tiny: str) -> Callable[[Tensor], Tensor] | None:
        if tiny not in self._decoders:
            self._decoders[tiny] = None
            stem = f"{tiny}_decoder."
            found = [name for name in self._storage.files("vae_approx") if name.startswith(stem)]
            try:
                if found:
                    path = str(self._storage.find("vae_approx", found[0]))
                    self._decoders[tiny] = tiny_decoder(path, self._device)
            except TesseraError as error:
                _log.warning("previews are colours alone: %s", error)
        return self._decoders[tiny]
