"""What packs set on a model, as a run in a worker uses it: ComfyUI's argument dicts around their functions.

Unpickled in the worker (`backend/sampling/foreign.py` says what it is asked there), and in the server where a
MODEL that carries it is handed to the next pack.
"""

import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from backend.patches import Foreign
from backend.sampling.foreign import Host, View
from backend.sampling.prediction import Prediction
from comfy_compat.block_code import PATCHES, BlockCode
from comfy_compat.model_sampling import ModelSampling, Replaced

SIDES = ("positive", "negative")
_OUTSIDE = ("on_clone", "on_load_after", "on_detach_after")  # callbacks about a patcher, not about a run
_OBJECTS = ("model_sampling", "manual_cast_dtype")
_REFUSED = ("sampler_calc_cond_batch_function", "denoise_mask_function")


class Hooks:
    """model_options and the rest of what a ModelPatcher collects."""

    def __init__(
        self,
        model_options: dict[str, Any],
        object_patches: Mapping[str, Any],
        wrappers: Mapping[str, Any],
        callbacks: Mapping[str, Any],
        attachments: Mapping[str, Any],
    ) -> None:
        self.model_options, self.object_patches = model_options, object_patches
        self.wrappers, self.callbacks, self.attachments = wrappers, callbacks, attachments

    @classmethod
    def of(cls, patch: Foreign) -> "Hooks":
        return _loaded(patch.code)

    @property
    def empty(self) -> bool:
        """Nothing was set that a run would notice."""
        options = {key: value for key, value in self.model_options.items() if key != "transformer_options"}
        inner = self.model_options.get("transformer_options") or {}
        return not (options or inner or self.object_patches or any(self.wrappers.values()))

    def unsupported(self) -> list[str]:
        """What was set that a run would leave out."""
        inner = self.model_options.get("transformer_options") or {}
        wrappers = [*self.wrappers, *(inner.get("wrappers") or {})]
        replaced = inner.get("patches_replace") or {}
        return [
            *(f"wrappers of kind {kind}" for kind in wrappers if kind != "apply_model"),
            *(f"callbacks of kind {kind}" for kind in self.callbacks if kind not in _OUTSIDE),
            *(f"patches of kind {kind}" for kind in inner.get("patches") or {} if kind not in PATCHES),
            *(f"replacements of {kind}" for kind in replaced if kind not in ("attn1", "attn2")),
            *(f"object patch {name}" for name in self.object_patches if name not in _OBJECTS),
            *(name for name in _REFUSED if name in self.model_options),
        ]

    # -- asked in the worker -----------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Both predictions are wanted, even where guidance would need one alone."""
        return bool(self.model_options.get("disable_cfg1_optimization"))

    @property
    def evaluates(self) -> bool:
        """Its functions take part in evaluating the network, so calls are made one by one through them."""
        options = self.model_options
        inner = options.get("transformer_options") or {}
        patched = any(inner.get(name) for name in ("patches", "patches_replace", "wrappers"))
        wrapped = any(self.wrappers.get(name) for name in ("apply_model", "diffusion_model"))
        return "model_function_wrapper" in options or patched or wrapped

    def prediction(self, known: Prediction) -> Prediction:
        """What the model's output means, where a pack put an object in the place of `model_sampling`."""
        own = self.object_patches.get("model_sampling")
        if own is None or (isinstance(own, ModelSampling) and own.prediction is known):
            return known
        return own.prediction if isinstance(own, ModelSampling) else Replaced(own)  # type: ignore[return-value]  # it has all that a Prediction is asked for

    def before(self, view: View) -> tuple[Tensor, Tensor]:
        """The predictions that guidance starts from."""
        made: Sequence[Tensor] = [view.cond, view.uncond]
        for function in self.model_options.get("sampler_pre_cfg_function", ()):
            made = function(
                {
                    "conds": self._conds(view),
                    "conds_out": list(made),
                    "cond_scale": view.scale,
                    "timestep": _rows(view),
                    "input": view.x,
                    "sigma": _rows(view),
                    "model": _model(view, self),
                    "model_options": self.model_options,
                }
            )
        return made[0], made[1]

    def instead(self, view: View) -> Tensor | None:
        """The guided prediction, where a pack's function makes it."""
        function = self.model_options.get("sampler_cfg_function")
        if function is None:
            return None
        sides = self._conds(view)
        noise: Tensor = function(
            {
                "cond": view.x - view.cond,
                "uncond": view.x - view.uncond,
                "cond_scale": view.scale,
                "timestep": _rows(view),
                "input": view.x,
                "sigma": _rows(view),
                "cond_denoised": view.cond,
                "uncond_denoised": view.uncond,
                "model": _model(view, self),
                "model_options": self.model_options,
                "input_cond": sides[0],
                "input_uncond": sides[1],
            }
        )
        return view.x - noise

    def after(self, result: Tensor, view: View) -> Tensor:
        """The guided prediction after the pack's functions."""
        sides = self._conds(view)
        for function in self.model_options.get("sampler_post_cfg_function", ()):
            result = function(
                {
                    "denoised": result,
                    "cond": sides[0],
                    "uncond": sides[1],
                    "cond_scale": view.scale,
                    "model": _model(view, self),
                    "uncond_denoised": view.uncond,
                    "cond_denoised": view.cond,
                    "sigma": _rows(view),
                    "model_options": self.model_options,
                    "input": view.x,
                }
            )
        return result

    def estimate(self, host: Host, x: Tensor, sigma: Tensor, side: str, c: dict[str, Any]) -> Tensor:
        """The denoised latent under one condition, through the pack's wrapper of the network.

        c: what the network is given, by ComfyUI's names.
        """
        model = RunModel(host, self)
        times = sigma.reshape(-1).expand(len(x)).to(x)
        number = int(side != SIDES[0])
        options = self.transformer_options(times, [number], c.pop("sample_sigmas", None))
        c = {**c, "transformer_options": options}
        wrapper = self.model_options.get("model_function_wrapper")
        if wrapper is None:
            return model.apply_model(x, times, **c)
        made: Tensor = wrapper(
            model.apply_model, {"input": x, "timestep": times, "c": c, "cond_or_uncond": [number]}
        )
        return made

    def transformer_options(self, sigmas: Tensor, which: list[int], schedule: Any) -> dict[str, Any]:
        """What blocks of the network are told."""
        options = dict(self.model_options.get("transformer_options") or {})
        wrappers = {**options.get("wrappers", {})}
        for kind, by_key in self.wrappers.items():
            wrappers[kind] = {**wrappers.get(kind, {}), **by_key}
        options |= {"cond_or_uncond": which, "uuids": list(which), "sigmas": sigmas, "wrappers": wrappers}
        if schedule is not None:
            options["sample_sigmas"] = schedule
        return options

    def _conds(self, view: View) -> list[list[dict[str, Any]] | None]:
        """The conditions, as an opaque list for each side; None where it was not evaluated."""
        both = [[{"side": side, "uuid": side, "model_conds": {}}] for side in SIDES]
        return [both[0], both[1] if view.both else None]


class RunModel:
    """What functions find under `model`: the model of this run."""

    def __init__(self, host: Host | None, hooks: Hooks) -> None:
        self._host, self._hooks = host, hooks
        self.current_patcher = None
        self.memory_usage_factor = 2.0

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

    def apply_model(self, x: Tensor, t: Tensor, **c: Any) -> Tensor:
        """The denoised latent for x at noise levels t [B]; c as `estimate` made it."""
        wrappers = _wrappers(c.get("transformer_options"), "apply_model")
        made: Tensor = _wrapped(wrappers, self._apply, self)(x, t, **c)
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
        code = BlockCode.of(transformer_options or {})
        return self.host.apply(x, t[:1].reshape(()), c_crossattn, given, code)

    def predict(self, side: str, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Tensor:
        """The denoised latent under one side's conditions, with other options than the run's."""
        hooks = Hooks(options, self._hooks.object_patches, self._hooks.wrappers, self._hooks.callbacks, {})
        return self.host.predict(side, x, sigma.reshape(-1)[0], hooks)


class WrapperExecutor:
    """Calls a chain of wrappers, each of which is handed the rest of the chain."""

    def __init__(self, original: Any, class_obj: Any, wrappers: Sequence[Any], idx: int) -> None:
        self.original, self.class_obj, self.wrappers, self.idx = original, class_obj, list(wrappers), idx
        self.is_last = idx == len(self.wrappers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """From a wrapper: the next one, or the function itself."""
        return self._next().execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_last:
            return self.original(*args, **kwargs)
        return self.wrappers[self.idx](self, *args, **kwargs)

    def _next(self) -> "WrapperExecutor":
        return WrapperExecutor(self.original, self.class_obj, self.wrappers, self.idx + 1)

    @classmethod
    def new_executor(cls, original: Any, wrappers: Sequence[Any], idx: int = 0) -> "WrapperExecutor":
        return cls(original, None, wrappers, idx)

    @classmethod
    def new_class_executor(
        cls, original: Any, class_obj: Any, wrappers: Sequence[Any], idx: int = 0
    ) -> "WrapperExecutor":
        return cls(original, class_obj, wrappers, idx)


def _wrapped(wrappers: Sequence[Any], function: Any, owner: Any) -> Any:
    return WrapperExecutor(function, owner, wrappers, 0).execute if wrappers else function


def _wrappers(options: Any, kind: str) -> list[Any]:
    by_key = ((options or {}).get("wrappers") or {}).get(kind) or {}
    return [one for listed in by_key.values() for one in listed]


def _model(view: View, hooks: Hooks) -> RunModel:
    return RunModel(view.host, hooks)


def _rows(view: View) -> Tensor:
    """The noise level once for each row, as ComfyUI hands it to functions."""
    return view.sigma.reshape(-1).expand(len(view.x)).to(view.x)


@lru_cache(maxsize=256)
def _loaded(code: bytes) -> Hooks:
    hooks = pickle.loads(code)
    assert isinstance(hooks, Hooks)
    return hooks
