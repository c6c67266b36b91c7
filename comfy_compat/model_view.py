"""What `MODEL.model` is to packs: the facts of the model behind a reference, by ComfyUI's names. No weights.

The networks live in workers, so `diffusion_model` has no blocks to take hold of here; what packs put into
`model_options` reaches them.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch

from backend.errors import UnsupportedOption
from backend.models.denoiser import describe
from backend.models.family import Layout
from backend.patches import Foreign
from backend.references import Model
from backend.worker.predictions import prediction_of
from comfy_compat.latent_formats import latent_format_of
from comfy_compat.model_sampling import ModelSampling

_BYTES = 4  # of one number of a latent


class ModelType(Enum):
    """What a network predicts."""

    EPS = 1
    V_PREDICTION = 2
    V_PREDICTION_EDM = 3
    STABLE_CASCADE = 4
    EDM = 5
    FLOW = 6
    V_PREDICTION_CONTINUOUS = 7
    FLUX = 8
    IMG_TO_IMG = 9
    FLOW_COSMOS = 10


class DiffusionModel:
    """Stands for the network. Its parts are in the workers."""

    dtype = torch.float32

    def __init__(self, family: str) -> None:
        self.family = family

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or name == "family":
            raise AttributeError(name)
        raise AttributeError(
            f"{name!r}: the {self.family} network runs in worker processes, and a node can't take hold of "
            "its parts. What is set through model_options (patches, wrappers, sampler functions) reaches it."
        )


class ModelConfig:
    """A family's facts under ComfyUI's names."""

    def __init__(self, family: str = "", layout: Layout | None = None) -> None:
        self.family = family
        self.unet_config = _unet_config(family, layout)
        self.unet_extra_config: dict[str, object] = {}
        self.sampling_settings: dict[str, object] = {}
        self.latent_format = latent_format_of(None if layout is None else layout.latent, family)
        self.supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]
        self.manual_cast_dtype = None
        self.custom_operations = None
        self.scaled_fp8 = None
        self.memory_usage_factor = 2.0
        self.optimizations: dict[str, object] = {"fp8": False}
        self.required_keys: dict[str, object] = {}

    def inpaint_model(self) -> bool:
        return bool(self.unet_config.get("in_channels", 0) == 9)


class BaseModel:
    """A model of Stable Diffusion's kind; subclasses name the others, for packs that ask with isinstance."""

    def __init__(self, model_config: Any = None, model_type: Any = ModelType.EPS, **more: Any) -> None:
        self.reference: Model | None = None
        self.model_config = model_config
        self.model_type = model_type
        self.manual_cast_dtype = None
        self.device = torch.device("cpu")
        self.memory_usage_factor = 2.0
        self.concat_keys: tuple[str, ...] = ()
        self.current_patcher: Any = None
        self.adm_channels = 0
        self.inpaint_model = False
        self.loras: list[object] = []

    @classmethod
    def of(cls, reference: Model) -> "BaseModel":
        """The view of a reference. Raises: UnknownFamily, BadFile."""
        family, layout = describe(reference.weights)
        prediction = prediction_of(layout, [p for p in reference.patches if not isinstance(p, Foreign)])
        config = ModelConfig(family.name, layout)
        view = FAMILIES.get(family.name, BaseModel)(config, _TYPES.get(prediction.kind, ModelType.EPS))
        view.reference = reference
        view.model_sampling = ModelSampling(prediction)
        view.adm_channels = int(config.unet_config.get("adm_in_channels") or 0)
        view.inpaint_model = config.inpaint_model()
        return view

    @property
    def model_sampling(self) -> Any:
        return vars(self).get("_sampling")

    @model_sampling.setter
    def model_sampling(self, value: Any) -> None:
        vars(self)["_sampling"] = value

    @property
    def latent_format(self) -> Any:
        return self.model_config.latent_format

    @property
    def diffusion_model(self) -> Any:
        return vars(self).get("_network") or DiffusionModel(getattr(self.model_config, "family", "foreign"))

    @diffusion_model.setter
    def diffusion_model(self, value: Any) -> None:
        vars(self)["_network"] = value

    def get_dtype(self) -> torch.dtype:
        return torch.float32

    def process_latent_in(self, latent: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.latent_format.process_in(latent)
        return made

    def process_latent_out(self, latent: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.latent_format.process_out(latent)
        return made

    def memory_required(self, input_shape: Sequence[int], cond_shapes: object = None) -> float:
        """Bytes that sampling a latent of this shape takes, about."""
        area = input_shape[0]
        for size in input_shape[2:]:
            area *= size
        return area * _BYTES * 0.01 * self.memory_usage_factor * 1024 * 1024

    def is_adm(self) -> bool:
        return self.adm_channels > 0

    def extra_conds(self, **kwargs: object) -> dict[str, object]:
        return {}

    def scale_latent_inpaint(self, sigma: Any, noise: Any, latent_image: Any, **kwargs: Any) -> Any:
        return self.model_sampling.noise_scaling(sigma, noise, latent_image)

    def state_dict(self) -> dict[str, object]:
        """There are no weights here."""
        return {}

    def named_modules(self) -> list[object]:
        return []

    def named_parameters(self) -> list[object]:
        return []

    def parameters(self) -> list[object]:
        return []

    def apply_model(self, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedOption(
            "model.apply_model", "outside of sampling", "Sample with comfy.sample.sample, or wrap the model."
        )


class SDXL(BaseModel):
    def encode_adm(self, **kwargs: Any) -> Any:
        """The pooled text; sizes are added where the model runs."""
        return kwargs["pooled_output"]


class SDXLRefiner(BaseModel): ...


class SD3(BaseModel): ...


class Flux(BaseModel): ...


class QwenImage(BaseModel): ...


class WAN21(BaseModel): ...


class HunyuanVideo(BaseModel): ...


class LTXV(BaseModel): ...


class Lumina2(BaseModel): ...


class Chroma(BaseModel): ...


class AuraFlow(BaseModel): ...


class PixArt(BaseModel): ...


class GenmoMochi(BaseModel): ...


class CosmosVideo(BaseModel): ...


class CosmosPredict2(BaseModel): ...


class HiDream(BaseModel): ...


class ACEStep(BaseModel): ...


class Omnigen2(BaseModel): ...


class StableCascade_C(BaseModel): ...


class StableCascade_B(BaseModel): ...


class SVD_img2vid(BaseModel): ...


class SV3D_u(SVD_img2vid): ...


class SV3D_p(SV3D_u): ...


class SD21UNCLIP(BaseModel): ...


class SDXL_instructpix2pix(SDXL): ...


class SD15_instructpix2pix(BaseModel): ...


class Stable_Zero123(BaseModel): ...


class SD_X4Upscaler(BaseModel): ...


class StableAudio1(BaseModel): ...


class HunyuanDiT(BaseModel): ...


class Hunyuan3Dv2(BaseModel): ...


FAMILIES: dict[str, type[BaseModel]] = {
    "sdxl": SDXL,
    "sdxl_refiner": SDXLRefiner,
    "sd3": SD3,
    "flux": Flux,
    "chroma": Chroma,
    "qwen_image": QwenImage,
    "wan": WAN21,
    "hunyuan_video": HunyuanVideo,
    "ltxv": LTXV,
    "lumina2": Lumina2,
    "auraflow": AuraFlow,
    "z_image": Lumina2,
}
_TYPES = {
    "eps": ModelType.EPS,
    "v": ModelType.V_PREDICTION,
    "edm": ModelType.EDM,
    "flow": ModelType.FLOW,
    "img_to_img": ModelType.IMG_TO_IMG,
}


def _unet_config(family: str, layout: Layout | None) -> dict[str, Any]:
    """The few keys of ComfyUI's configuration that packs read, as far as the header tells."""
    config: dict[str, Any] = {"image_model": family}
    if layout is None:
        return config
    config |= {"in_channels": layout.in_channels, "context_dim": layout.context}
    if family.startswith("sdxl"):
        config["adm_in_channels"] = 2560 if family == "sdxl_refiner" else 2816
    levels = getattr(layout, "levels", None)
    if levels:
        config |= {
            "model_channels": levels[0].channels,
            "channel_mult": [level.channels // levels[0].channels for level in levels],
            "num_res_blocks": [level.blocks for level in levels],
            "transformer_depth": [level.depth for level in levels for _ in range(level.blocks)],
        }
    return config
