"""ComfyUI's VAE, as packs hold it: pictures and latents go through the shared engine."""

from typing import Any

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.models.vae import describe_vae
from backend.ops import DecodeLatent, EncodePixels, Tiles
from backend.references import Vae
from backend.types import Latent
from comfy_compat.engine import computed
from comfy_compat.patcher import ModelPatcher

_PIXELS = 8  # of one latent pixel, a side


class VAE:
    """A VAE value."""

    def __init__(
        self,
        sd: Any = None,
        device: Any = None,
        config: Any = None,
        dtype: Any = None,
        metadata: Any = None,
        reference: Vae | None = None,
    ) -> None:
        if reference is None and sd is not None:
            remedy = "Load it by its file: VAELoader, or comfy.sd.VAE(sd=comfy.utils.load_torch_file(path))."
            raise UnsupportedOption("comfy.sd.VAE", f"{len(sd)} tensors of no file", remedy)
        self.reference = reference
        self.output_channels = 3
        self.downscale_index_formula: Any = None
        self.upscale_index_formula: Any = None
        self.extra_1d_channel = None
        self.disable_offload = False
        self.size = 0
        self.device = self.output_device = torch.device("cpu")
        self.vae_dtype = torch.float32
        self.working_dtypes = [torch.bfloat16, torch.float32]
        self.patcher = ModelPatcher(None)
        self.first_stage_model = FirstStage(self)

    def __getattr__(self, name: str) -> Any:
        """What the model's file says, looked up when somebody asks."""
        if name not in ("latent_channels", "latent_dim", "downscale_ratio", "upscale_ratio"):
            raise AttributeError(f"a VAE has no attribute {name!r}")
        facts: dict[str, Any] = {"latent_channels": 4, "latent_dim": 2, "downscale_ratio": _PIXELS}
        if self.reference is not None:
            layout = describe_vae(self.reference.weights)
            facts = {
                "latent_channels": layout.channels,
                "latent_dim": layout.dimensions,
                "downscale_ratio": layout.downscale,
            }
        facts["upscale_ratio"] = facts["downscale_ratio"]
        vars(self).update(facts)
        return facts[name]

    @classmethod
    def of(cls, reference: Vae) -> "VAE":
        """The handle of a reference."""
        made = cls.__new__(cls)
        VAE.__init__(made, reference=reference)
        return made

    # -- through the engine ------------------------------------------------------------------------

    def decode(self, samples_in: Tensor, vae_options: Any = None) -> Tensor:
        """A latent [B, C, h, w] -> pictures [B, H, W, 3] in 0..1."""
        return self._decoded(samples_in, None)

    def decode_tiled(
        self,
        samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> Tensor:
        """As `decode`, in tiles; sizes in latent pixels."""
        side, margin = tile_x or 64, 16 if overlap is None else overlap
        scale = int(self.downscale_ratio)
        return self._decoded(samples, Tiles(side * scale, margin * scale))

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Pictures [B, H, W, C] -> a latent [B, C, h, w]."""
        return self._encoded(pixel_samples, None)

    def encode_tiled(
        self,
        pixel_samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> Tensor:
        """As `encode`, in tiles; sizes in pixels."""
        return self._encoded(pixel_samples, Tiles(tile_x or 512, 64 if overlap is None else overlap))

    def _decoded(self, samples: Tensor, tiles: Tiles | None) -> Tensor:
        made = computed(DecodeLatent(self._known(), Latent(samples.detach().cpu().float()), tiles))
        assert isinstance(made, Tensor)
        return made

    def _encoded(self, pixels: Tensor, tiles: Tiles | None) -> Tensor:
        made = computed(EncodePixels(self._known(), pixels.detach().cpu().float(), tiles))
        assert isinstance(made, Latent)
        return made.samples

    def _known(self) -> Vae:
        self.throw_exception_if_invalid()
        assert self.reference is not None
        return self.reference

    def throw_exception_if_invalid(self) -> None:
        if self.reference is None:
            raise RuntimeError("ERROR: VAE is invalid: None\n\nThere is no VAE behind this value.")

    # -- facts -------------------------------------------------------------------------------------

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """The middle of pictures, in sizes that the latent's pixels divide."""
        step = int(self.downscale_ratio)
        height, width = (size // step * step for size in pixels.shape[1:3])
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        return pixels[:, top : top + height, left : left + width]

    def process_input(self, image: Tensor) -> Tensor:
        return image * 2.0 - 1.0

    def process_output(self, image: Tensor) -> Tensor:
        return ((image + 1.0) / 2.0).clamp(0.0, 1.0)

    def memory_used_decode(self, shape: Any, dtype: Any) -> float:
        return float(2178 * shape[-2] * shape[-1] * 64 * _bytes(dtype))

    def memory_used_encode(self, shape: Any, dtype: Any) -> float:
        return float(1767 * shape[-2] * shape[-1] * _bytes(dtype))

    def spacial_compression_decode(self) -> int:
        return int(self.downscale_ratio)

    def spacial_compression_encode(self) -> int:
        return int(self.downscale_ratio)

    def temporal_compression_decode(self) -> int | None:
        return None

    def is_latent_video(self) -> bool:
        return bool(self.latent_dim == 3)

    def get_sd(self) -> dict[str, Any]:
        raise UnsupportedOption("vae.get_sd", "", "The weights are in the workers; read the model's file.")


class FirstStage:
    """`vae.first_stage_model`: stands for the network, whose parts are in the workers."""

    def __init__(self, vae: VAE) -> None:
        self._vae = vae

    def to(self, *args: Any, **kwargs: Any) -> "FirstStage":
        return self

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in -1..1."""
        return self._vae.encode(((pixels + 1.0) / 2.0).movedim(1, -1))

    def decode(self, samples: Tensor) -> Tensor:
        return self._vae.decode(samples).movedim(-1, 1) * 2.0 - 1.0


def _bytes(dtype: Any) -> int:
    return int(dtype.itemsize) if isinstance(dtype, torch.dtype) else 4
