"""A run conducted by packs' functions: ComfyUI's stack of guider, sampler and model, in a worker.

Wherever a pack brings nothing of its own, the server's part stands: its samplers are driven, and a guider
that does not override its prediction asks for it in passes that are shared with other runs.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.foreign import Asked, Conducted, Host, Setup
from backend.sampling.request import DenoiseRequest
from comfy_compat.guidance import opaque, sampling_function
from comfy_compat.run_model import RunHooks, RunModel, RunPatcher
from comfy_compat.sampler_run import FunctionSampler, NamedSampler
from comfy_compat.wrappers import listed, wrapped

Options = dict[str, Any]


@dataclass(slots=True, eq=False)
class Running:
    """A run under way. options: model_options of the run; opened: the last step that was begun."""

    setup: Setup
    ask: Asked
    model: RunModel
    patcher: RunPatcher
    options: Options = field(default_factory=dict)
    opened: int = -1

    def step_at(self, sigma: float) -> int | None:
        """The step of the schedule that an evaluation at a noise level begins, if it does."""
        levels = self.setup.sigmas[:-1].tolist()
        step = next((i for i, level in enumerate(levels) if i > self.opened and level == sigma), None)
        self.opened = self.opened if step is None else step
        return step

    def guided(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The estimate as the run's guider makes it where nobody interferes."""
        level = sigma.detach().reshape(-1)[0].float().cpu()
        return self.ask(DenoiseRequest(x, level, self.step_at(float(level))))


class GuiderRun:
    """The part of a GUIDER that a run calls; packs override any of it."""

    model_patcher: Any
    model_options: Options
    cfg: float
    conds: dict[str, Any]
    inner_model: Any
    running: Running | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.outer_predict_noise(*args, **kwargs)

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Options | None = None, seed: Any = None
    ) -> Tensor:
        options = {} if model_options is None else model_options
        inner = self.model_options.get("transformer_options")
        made: Tensor = wrapped(self.predict_noise, "predict_noise", inner, self)(x, timestep, options, seed)
        return made

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Options | None = None, seed: Any = None
    ) -> Tensor:
        """The guided estimate of the clean latent for x at noise levels [B]."""
        running = the_run(self)
        options = {} if model_options is None else model_options
        two = set(self.conds) <= {"positive", "negative"}
        same = options is running.options and self.cfg == running.setup.cfg
        if same and not _batches(options) and (two or isinstance(self, PlainGuider)):
            return running.guided(x, timestep)
        if not two:
            remedy = "Use a guider of two sides, or one that overrides predict_noise."
            raise UnsupportedOption("guider", ", ".join(self.conds), remedy)
        negative, positive = self.conds.get("negative"), self.conds.get("positive")
        running.step_at(float(timestep.reshape(-1)[0]))
        return sampling_function(self.inner_model, x, timestep, negative, positive, self.cfg, options, seed)

    def outer_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """The run within its outermost wrappers, in LATENT's units."""
        running = the_run(self)
        device, inner = running.model.device, self.model_options.get("transformer_options")
        prepare = wrapped(_prepared, "prepare_sampling", inner)
        options = {"model_options": self.model_options}
        self.inner_model, conds, _ = prepare(running.patcher, noise.shape, self.conds, **options)
        changed = any(conds.get(side) is not cond for side, cond in self.conds.items())
        if self.inner_model is not running.model or changed:
            remedy = "It may look at the model and the conditions, and must hand on those that it was given."
            raise UnsupportedOption("prepare_sampling", "a wrapper that changes them", remedy)
        try:
            for told in listed(inner, "callbacks", "on_pre_run"):
                told(running.patcher)
            return self.inner_sample(
                noise.to(device),
                latent_image.to(device),
                device,
                sampler,
                sigmas.to(device),
                denoise_mask,
                callback,
                disable_pbar,
                seed,
            )
        finally:
            for told in listed(inner, "callbacks", "on_cleanup"):
                told(running.patcher)

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: Any,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: Any,
        disable_pbar: bool,
        seed: int | None,
    ) -> Tensor:
        model = self.inner_model
        if latent_image is not None and latent_image.any():
            latent_image = model.process_latent_in(latent_image)
        running = the_run(self)
        options = deep(self.model_options)
        options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas
        running.options = options
        extra = {"model_options": options, "seed": seed}
        run = wrapped(sampler.sample, "sampler_sample", options["transformer_options"], sampler)
        samples = run(self, sigmas, extra, callback, noise, latent_image, denoise_mask, disable_pbar)
        made: Tensor = model.process_latent_out(samples.to(torch.float32))
        return made

    def run(self, *args: Any) -> Tensor:
        """`sample` where the run is."""
        running = the_run(self)
        self.conds = {side: opaque(side) for side in running.setup.sides}
        before, self.model_options = self.model_options, deep(self.model_options)
        inner = self.model_options.get("transformer_options")
        try:
            made: Tensor = wrapped(self.outer_sample, "outer_sample", inner, self)(*args)
            return made
        finally:
            self.model_options = before


class PlainGuider(GuiderRun):
    """One of the server's, where a pack brings none."""


def conduct(
    host: Host, ask: Asked, setup: Setup, hooks: RunHooks, own: tuple[Any, bool], sampler: Any
) -> Conducted:
    """The run. hooks: with all wrappers and callbacks among their options; own: a pack's guider, or None for
    the server's, and whether its `sample` was called already; sampler: a pack's, or None.
    """
    model = RunModel(host, hooks)
    patcher = model.current_patcher = RunPatcher(model, hooks)
    guider, entered = own
    guider = PlainGuider() if guider is None else guider
    guider.model_patcher, guider.model_options, guider.inner_model = patcher, hooks.model_options, model
    guider.running = Running(setup, ask, model, patcher)
    if isinstance(guider, PlainGuider):
        guider.cfg = setup.cfg
    last: list[Tensor] = []
    start = guider.run if entered or isinstance(guider, PlainGuider) else guider.sample
    samples = start(
        setup.noise,
        setup.latent,
        _server_sampler(setup) if sampler is None else sampler,
        setup.sigmas,
        setup.mask,
        lambda step, denoised, x, total: last.__setitem__(slice(None), [denoised]),
        True,
        setup.seed,
    )
    return Conducted(samples, last[0] if last else None)


def _prepared(model: Any, noise_shape: Any, conds: Any, model_options: Any = None) -> tuple[Any, Any, Any]:
    """The network, the conditions, and models beside it: the server has made them ready."""
    return model.model, conds, []


def _server_sampler(setup: Setup) -> FunctionSampler:
    """The server's sampler as a SAMPLER value."""
    random = {"random": setup.sampler == "ddim"}
    return FunctionSampler(NamedSampler(setup.sampler), dict(setup.options), random)


def deep(value: Any) -> Any:
    """Dicts and lists copied, all else shared."""
    if type(value) is dict:
        return {key: deep(item) for key, item in value.items()}
    if type(value) is list:
        return [deep(item) for item in value]
    return value


def the_run(guider: GuiderRun) -> Running:
    """Raises: RuntimeError outside of a run."""
    if guider.running is None:
        raise RuntimeError("A guider predicts within a run: sample with guider.sample.")
    return guider.running


def _batches(options: Options) -> bool:
    """Somebody takes part in evaluating both sides together."""
    inner = options.get("transformer_options")
    return "sampler_calc_cond_batch_function" in options or bool(listed(inner, "wrappers", "calc_cond_batch"))
