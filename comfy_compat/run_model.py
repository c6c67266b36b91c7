"""The model of a run, as functions of node packs find it in a worker: under `model`, `inner_model`, and
around it the patcher that they set things on.
"""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.foreign import ForeignCode, Host
from comfy_compat.block_code import BlockCode
from comfy_compat.model_sampling import ModelSampling
from comfy_compat.model_view import BaseModel
from comfy_compat.wrappers import listed, wrapped

# What networks are called with behind (x, time, context): wrappers take it by position. The UNets' is _UNET.
_POSITIONAL = {
    "flux": ("y", "guidance", "ref_latents", "control"),
    "chroma": ("guidance", "control"),
    "qwen_image": ("attention_mask", "guidance", "ref_latents"),
    "wan": ("clip_fea", "time_dim_concat"),
}
_UNET = ("y", "control")
_UNETS = ("sd15", "sd2", "sdxl", "sdxl_refiner")


class RunHooks(Protocol):
    """What packs set on the model of a run (`foreign.Hooks`)."""

    model_options: dict[str, Any]
    object_patches: Mapping[str, Any]

    def with_options(self, options: dict[str, Any]) -> Self:
        """The same with other model_options, and all wrappers and callbacks among them."""

    @property
    def code(self) -> ForeignCode:
        """What a host evaluates the network through."""


class RunModel:
    """What functions find under `model`."""

    def __init__(self, host: Host | None, hooks: RunHooks) -> None:
        self._host, self._hooks = host, hooks
        self.current_patcher: RunPatcher | None = None
        self.memory_usage_factor = 2.0

    def __getattr__(self, name: str) -> Any:
        """Facts of the model: its latent format, its configuration ..."""
        host = vars(self).get("_host")
        if name.startswith("__") or host is None:
            raise AttributeError(name)
        if "_facts" not in vars(self):
            vars(self)["_facts"] = BaseModel.of(host.model)
        return getattr(vars(self)["_facts"], name)

    @property
    def host(self) -> Host:
        if self._host is None:
            raise RuntimeError("this run's network can't be evaluated from here")
        return self._host

    @property
    def model_sampling(self) -> Any:
        own = self._hooks.object_patches.get("model_sampling")
        return ModelSampling(self.host.prediction) if own is None else own

    @property
    def inner_model(self) -> "RunModel":
        return self

    @property
    def model_options(self) -> dict[str, Any]:
        return self._hooks.model_options

    @property
    def device(self) -> torch.device:
        return self.host.device

    def get_dtype(self) -> torch.dtype:
        return torch.float32

    def scale_latent_inpaint(self, sigma: Any, noise: Any, latent_image: Any, **kwargs: Any) -> Any:
        """The kept part of a latent at a noise level [B]."""
        return self.model_sampling.noise_scaling(sigma, noise, latent_image)

    def apply_model(self, x: Tensor, t: Tensor, **c: Any) -> Tensor:
        """The denoised latent for x at noise levels t [B]; c as `estimate` made it."""
        made: Tensor = wrapped(self._apply, "apply_model", c.get("transformer_options"), self)(x, t, **c)
        return made

    def _apply(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **extra: Any,
    ) -> Tensor:
        given = {**extra, "control": control}
        if c_concat is not None:
            given["concat"] = c_concat
        if listed(transformer_options, "wrappers", "diffusion_model"):
            return self._wrapped_network(x, t[:1].reshape(()), c_crossattn, given, transformer_options)
        code = BlockCode.of(transformer_options or {})
        return self.host.apply(x, t[:1].reshape(()), c_crossattn, given, code)

    def _wrapped_network(
        self, x: Tensor, sigma: Tensor, context: Any, given: dict[str, Any], options: Any
    ) -> Tensor:
        """The denoised latent, with the network within its wrappers. Raises: UnsupportedOption."""
        family = self.model_config.family
        if family not in _POSITIONAL and family not in _UNETS:
            raise UnsupportedOption("wrapper", "diffusion_model", f"The {family} network can't be wrapped.")
        names, rest = _POSITIONAL.get(family, _UNET), dict(given)

        def forward(x: Tensor, times: Tensor, context: Tensor, *by_position: Any, **by_name: Any) -> Tensor:
            *values, told = by_position or (*(by_name.pop(n, None) for n in names), options)
            named = {**by_name, **{n: v for n, v in zip(names, values, strict=True) if v is not None}}
            inner = by_name.pop("transformer_options", told)
            return self.host.forward(x, times, context, named, BlockCode.of(inner or {}))

        prediction = self.host.prediction
        level = sigma.detach().float().cpu()
        times = prediction.timestep(level).reshape(1).to(x).expand(len(x))
        call = wrapped(forward, "diffusion_model", options, self)
        firsts = [rest.pop(name, None) for name in names]
        output = call(prediction.scale_input(x, level), times, context, *firsts, options, **rest)
        return prediction.denoised(x, output, level)

    def predict(self, side: str, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Tensor:
        """The denoised latent under one side's conditions, with other options than the run's."""
        return self.host.predict(side, x, sigma.reshape(-1)[0], self._hooks.with_options(options).code)


class RunPatcher:
    """What functions find under `model_patcher`: the patcher of the model that runs."""

    def __init__(self, model: RunModel, hooks: RunHooks) -> None:
        self.model, self.model_options = model, hooks.model_options
        self.object_patches = hooks.object_patches
        self.attachments = getattr(hooks, "attachments", {})
        self.load_device = self.offload_device = model.device

    def get_model_object(self, name: str) -> Any:
        """An object of the model by its path, or what was put in its place."""
        if name in self.object_patches:
            return self.object_patches[name]
        found: Any = self.model
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def model_dtype(self) -> torch.dtype:
        return self.model.get_dtype()

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)

    def get_all_wrappers(self, kind: str) -> list[Any]:
        return listed(self.model_options.get("transformer_options"), "wrappers", kind)

    def get_all_callbacks(self, kind: str) -> list[Any]:
        return listed(self.model_options.get("transformer_options"), "callbacks", kind)
