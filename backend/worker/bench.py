"""What ops are done with on a device, and the networks that a run has it load."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from backend.components import LoraUse, Weights, towards
from backend.models.controlnet import ControlModel, needs_model
from backend.models.denoiser import Denoiser
from backend.models.family import Layout
from backend.models.lora import Patch
from backend.models.model_patch import PatchModel
from backend.models.vae import encode_pixels, in_units
from backend.ops import EncodePixels, Tiles
from backend.references import ControlNet, Model, PatchNetwork, Vae
from backend.types import Latent
from backend.values import frozen
from backend.worker.denoise import Target
from backend.worker.ladder import Ladder
from backend.worker.predictions import format_of, prediction_of
from backend.worker.residents import Residents

T = TypeVar("T")


@frozen
class Bench:
    """What ops are done with.

    ladder: what is done where memory runs out; find_embedding: the name in a prompt -> the path of its file,
    None if there is none.
    """

    residents: Residents
    ladder: Ladder
    find_embedding: Callable[[str], str | None]

    def control(self, weights: Weights) -> ControlModel:
        """A ControlNet, resident. Raises: BadFile, OutOfMemory."""
        return self.ladder.attempt("loading a ControlNet", lambda: self.residents.controlnet(weights))


@frozen
class RunNetworks:
    """Makes resident what a sampling run asks for (`conditions.Networks`). model: the run's own."""

    model: Model
    bench: Bench

    def target(self) -> tuple[Target, Layout]:
        """The model that the run samples with."""
        return self.bench.ladder.loaded("loading a denoiser", self._target)

    def _target(self, offloaded: bool) -> tuple[Target, Layout]:
        model = self.model
        denoiser = self.bench.residents.denoiser(model.weights, offloaded)
        target = Target(
            network=denoiser,
            prediction=prediction_of(denoiser.layout, model.patches),
            format=format_of(denoiser.layout, model.patches),
            device=denoiser.device,
            patches=self.bench.residents.patches(model.weights, model.loras),
            mixes_lengths=denoiser.layout.mixes_lengths,
            moved=self.moved,
        )
        return target, denoiser.layout

    def moved(
        self, others: tuple[tuple[Weights, float], ...], uses: tuple[LoraUse, ...]
    ) -> tuple[Denoiser, tuple[Patch, ...]]:
        """The model drawn towards others, and its LoRAs with those of `uses`."""
        weights = towards(self.model.weights, others)

        def load(offloaded: bool) -> tuple[Denoiser, tuple[Patch, ...]]:
            denoiser = self.bench.residents.denoiser(weights, offloaded)
            return denoiser, self.bench.residents.patches(weights, (*self.model.loras, *uses))

        return self.bench.ladder.loaded("loading a denoiser", load)

    def control(self, net: ControlNet) -> ControlModel:
        weights, own = net.weights, self.model.weights
        if len(weights.files) == 1 and needs_model(weights.files[0]):
            both = f"{weights.digest}+{own.digest}"
            weights = Weights(weights.kind, both, (*weights.files, *own.files))
        return self.bench.control(weights)

    def encode(self, vae: Vae, pixels: Tensor) -> Tensor:
        return encoded(EncodePixels(vae, pixels), self.bench).samples

    def lora(self, use: LoraUse) -> Patch:
        (patch,) = self.bench.residents.patches(self.model.weights, (use,))
        return patch

    def patch(self, net: PatchNetwork) -> PatchModel:
        load = self.bench.residents.model_patch
        return self.bench.ladder.attempt("loading a model patch", lambda: load(net.weights))


def encoded(op: EncodePixels, bench: Bench) -> Latent:
    """An op's pixels as a latent, in tiles where they are asked for or memory is short."""
    pixels = of_kind(Tensor, op.pixels)

    def encode(tiles: Tiles | None) -> Latent:
        vae = in_units(bench.residents.vae(op.vae.weights), op.vae.tiny)
        bench.ladder.memory.claim(sized("encoding", pixels), vae.encoding_bytes(pixels.shape, tiles))
        return encode_pixels(vae, pixels, tiles)

    return bench.ladder.tiled(sized("encoding", pixels), op.tiles, encode)


def sized(what: str, pixels: Tensor) -> str:
    """What is done, to pictures of which size: for messages."""
    return f"{what} images of shape {list(pixels.shape)}"


def of_kind(kind: type[T], value: object) -> T:
    """The value, which must be of that kind: a third-party node may have made another."""
    if not isinstance(value, kind):
        raise TypeError(
            f"a {kind.__name__} is needed here, and the node before gave a {type(value).__name__}"
        )
    return value
