"""ComfyUI's ControlNet objects, as packs hold them: a chain of uses, on a condition under `control`."""

from typing import Any

import torch
from torch import Tensor

from backend.references import ControlNet as Reference
from backend.references import ControlUse


class ControlBase:
    """A ControlNet with what it is shown, its strength and its times; perhaps others before it."""

    def __init__(self, reference: Reference | None = None) -> None:
        self.reference = reference
        self.cond_hint_original: Tensor | None = None
        self.cond_hint: Tensor | None = None
        self.strength = 1.0
        self.timestep_percent_range = (0.0, 1.0)
        self.timestep_range: Any = None
        self.previous_controlnet: ControlBase | None = None
        self.global_average_pooling = reference is not None and reference.average
        self.latent_format: Any = None
        self.vae: Any = None
        self.extra_concat_orig: list[Any] = []
        self.extra_conds: list[Any] = []
        self.extra_hooks: Any = None
        self.extra_args: dict[str, Any] = {}
        self.compression_ratio = 8
        self.upscale_algorithm = "nearest-exact"
        self.strength_type: Any = None
        self.concat_mask = False
        self.preprocess_image: Any = lambda image: image
        self.manual_cast_dtype = None
        self.load_device = torch.device("cpu")

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Any = (),
    ) -> "ControlBase":
        """What it is shown [B, C, H, W], how strongly it acts, and when (percent of the run, 0..1)."""
        self.cond_hint_original, self.strength = cond_hint, strength
        self.timestep_percent_range = (float(timestep_percent_range[0]), float(timestep_percent_range[1]))
        self.vae, self.extra_concat_orig = vae, list(extra_concat)
        return self

    def set_previous_controlnet(self, controlnet: "ControlBase | None") -> "ControlBase":
        self.previous_controlnet = controlnet
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        self.extra_args[argument] = value

    def copy(self) -> "ControlBase":
        made = self.__class__.__new__(self.__class__)
        vars(made).update(vars(self))
        made.extra_args = dict(self.extra_args)
        return made

    def copy_to(self, c: "ControlBase") -> None:
        vars(c).update(vars(self))

    def get_models(self) -> list[Any]:
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def get_extra_hooks(self) -> list[Any]:
        return []

    def cleanup(self) -> None:
        self.cond_hint = None

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """The engine resolves times by itself."""

    def inference_memory_requirements(self, dtype: Any) -> float:
        return 0.0


class ControlNet(ControlBase): ...


class ControlLora(ControlNet): ...


class T2IAdapter(ControlBase): ...


def chain_of(uses: tuple[ControlUse, ...]) -> ControlBase | None:
    """Uses in order as ComfyUI's chain: the last is in front."""
    last: ControlBase | None = None
    for use in uses:
        made = ControlNet(use.net)
        made.set_cond_hint(use.image.movedim(-1, 1), use.strength, (use.start, use.end))
        made.set_previous_controlnet(last)
        last = made
    return last


def uses_of(chain: ControlBase | None) -> tuple[ControlUse, ...]:
    """A chain as uses in order. Raises: TypeError for a control that is none of the server's."""
    found: list[ControlUse] = []
    while chain is not None:
        if chain.reference is None or chain.cond_hint_original is None:
            raise TypeError(
                f"a {type(chain).__name__} without a model of the server's can't steer a sampling run"
            )
        start, end = chain.timestep_percent_range
        image = chain.cond_hint_original.movedim(1, -1)
        found.append(ControlUse(chain.reference, image, chain.strength, start, end))
        chain = chain.previous_controlnet
    return tuple(reversed(found))
