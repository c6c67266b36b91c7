"""What packs set on a model, as a run in a worker uses it: ComfyUI's argument dicts around their functions.

Unpickled in the worker (`backend/sampling/foreign.py` says what it is asked there), and in the server where a
MODEL that carries it is handed to the next pack.
"""

import pickle
from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import Any, ClassVar

from torch import Tensor

from backend.patches import Foreign
from backend.sampling.foreign import Asked, Conducted, ForeignCode, Host, Setup, View
from backend.sampling.prediction import Prediction
from backend.values import frozen
from comfy_compat.block_code import PATCHES
from comfy_compat.conducting import conduct, deep
from comfy_compat.guidance import opaque
from comfy_compat.model_sampling import ModelSampling, Replaced
from comfy_compat.run_model import RunModel

SIDES = ("positive", "negative")
_OUTSIDE = ("on_clone", "on_load_after", "on_detach_after")  # callbacks about a patcher, not about a run
_OBJECTS = ("model_sampling", "manual_cast_dtype")
# What concerns a run as a whole, or both its sides together: then `conducting` runs it.
_OF_RUNS = ("outer_sample", "prepare_sampling", "sampler_sample", "predict_noise", "calc_cond_batch")
_OF_CALLS = ("apply_model", "diffusion_model")
_TOLD = ("on_pre_run", "on_cleanup")
_OPTIONS_OF_RUNS = ("sampler_calc_cond_batch_function", "denoise_mask_function")


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
        told = any(held for kind, held in self.callbacks.items() if kind not in _OUTSIDE)
        return not (options or inner or self.object_patches or any(self.wrappers.values()) or told)

    def unsupported(self) -> list[str]:
        """What was set that a run would leave out."""
        inner = self.model_options.get("transformer_options") or {}
        wrappers = [*self.wrappers, *(inner.get("wrappers") or {})]
        replaced = inner.get("patches_replace") or {}
        return [
            *(f"wrappers of kind {kind}" for kind in wrappers if kind not in (*_OF_RUNS, *_OF_CALLS)),
            *(f"callbacks of kind {kind}" for kind in self.callbacks if kind not in (*_OUTSIDE, *_TOLD)),
            *(f"patches of kind {kind}" for kind in inner.get("patches") or {} if kind not in PATCHES),
            *(f"replacements of {kind}" for kind in replaced if kind not in ("attn1", "attn2")),
            *(f"object patch {name}" for name in self.object_patches if name not in _OBJECTS),
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
        patched = any(inner.get(name) for name in ("patches", "patches_replace"))
        return "model_function_wrapper" in options or patched or self._wraps(_OF_CALLS)

    def _wraps(self, kinds: Sequence[str]) -> bool:
        held = (self.model_options.get("transformer_options") or {}).get("wrappers") or {}
        return any(self.wrappers.get(kind) or held.get(kind) for kind in kinds)

    @property
    def code(self) -> ForeignCode:
        return self

    def with_options(self, options: dict[str, Any]) -> "Hooks":
        """The same with other model_options."""
        return Hooks(options, self.object_patches, self.wrappers, self.callbacks, self.attachments)

    def joined(self) -> "Hooks":
        """The same, all wrappers and callbacks among the model_options, as runs have them."""
        options = deep(self.model_options)
        inner = options.setdefault("transformer_options", {})
        for what, held in (("wrappers", self.wrappers), ("callbacks", self.callbacks)):
            for kind, by_key in held.items():
                known = inner.setdefault(what, {}).setdefault(kind, {})
                for key, functions in by_key.items():
                    known[key] = [*known.get(key, ()), *functions]
        return Hooks(options, self.object_patches, {}, {}, self.attachments)

    @property
    def conducts(self) -> bool:
        """It takes part in the run as a whole."""
        told = any(self.callbacks.get(kind) for kind in _TOLD)
        return told or self._wraps(_OF_RUNS) or any(name in self.model_options for name in _OPTIONS_OF_RUNS)

    def conduct(self, host: Host, ask: Asked, setup: Setup, codes: Sequence[object]) -> Conducted:
        return conducted(host, ask, setup, codes)

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
        both = [opaque(side) for side in SIDES]
        return [both[0], both[1] if view.both else None]


@frozen(eq=False)
class Part:
    """A pack's own sampler, guider, NOISE object or schedule, on its way to a worker.

    entered: the guider's `sample` was called where the pack's node ran, and is not called again.
    """

    sampler: Any = None
    guider: Any = None
    noise: Any = None
    entered: bool = False
    schedule: Any = None  # a SchedulerHandler
    conducts: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False

    def conduct(self, host: Host, ask: Asked, setup: Setup, codes: Sequence[object]) -> Conducted:
        return conducted(host, ask, setup, codes)

    def make_noise(self, latent: Mapping[str, object]) -> Tensor:
        made: Tensor = self.noise.generate_noise(dict(latent))
        return made.cpu()

    def make_levels(self, prediction: Prediction, steps: int) -> Tensor:
        return handled(self.schedule, ModelSampling(prediction), steps)


def conducted(host: Host, ask: Asked, setup: Setup, codes: Sequence[object]) -> Conducted:
    """A run by all that packs bring to it."""
    hooks = next((code for code in codes if isinstance(code, Hooks)), Hooks({}, {}, {}, {}, {}))
    parts = [code for code in codes if isinstance(code, Part)]
    own = next((part for part in parts if part.guider is not None), Part())
    sampler = next((part.sampler for part in parts if part.sampler is not None), None)
    return conduct(host, ask, setup, hooks.joined(), (copy(own.guider), own.entered), sampler)


def handled(schedule: Any, sampling: Any, steps: int) -> Tensor:
    """The sigmas of a SchedulerHandler for a `model_sampling` object."""
    if schedule.use_ms:
        made = schedule.handler(sampling, steps)
    else:
        ends = {"sigma_min": float(sampling.sigma_min), "sigma_max": float(sampling.sigma_max)}
        made = schedule.handler(n=steps, **ends)
    levels: Tensor = made.float().cpu()
    return levels


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
