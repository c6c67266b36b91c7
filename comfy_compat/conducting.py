"""A run conducted by packs' functions: ComfyUI's stack of guider, sampler and model, in a worker.

Wherever a pack brings nothing of its own, the server's part stands: its samplers are driven, and a guider
that does not override its prediction asks for it in passes that are shared with other runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.foreign import Asked, Conducted, Host, Setup
from backend.sampling.noise import masked_noise
from backend.sampling.request import DenoiseRequest
from backend.sampling.samplers import make_sampler
from comfy_compat.guidance import opaque, sampling_function
from comfy_compat.run_model import RunHooks, RunModel, RunPatcher
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
        self.inner_model = running.model
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


class MaskedModel:
    """What sampler functions call as their model: the guider, with the unmasked part of the latent kept."""

    def __init__(self, model: Any, sigmas: Tensor) -> None:
        self.inner_model, self.sigmas = model, sigmas
        self.noise: Any = None
        self.latent_image: Any = None

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        denoise_mask: Tensor | None = None,
        model_options: Options | None = None,
        seed: Any = None,
    ) -> Tensor:
        options = {} if model_options is None else model_options
        if denoise_mask is None:
            plain: Tensor = self.inner_model(x, sigma, model_options=options, seed=seed)
            return plain
        mask = self._mask(sigma, denoise_mask, options)
        kept: Tensor = self.inner_model.inner_model.scale_latent_inpaint(
            x=x, sigma=sigma, noise=self.noise, latent_image=self.latent_image
        )
        x = x * mask + kept * (1.0 - mask)
        made: Tensor = self.inner_model(x, sigma, model_options=options, seed=seed)
        whole: Tensor = made * mask + self.latent_image * (1.0 - mask)
        return whole

    def _mask(self, sigma: Tensor, mask: Tensor, options: Options) -> Tensor:
        function = options.get("denoise_mask_function")
        if function is not None:
            extra = {"model": self.inner_model, "sigmas": self.sigmas}
            made: Tensor = function(sigma, mask, extra_options=extra)
            return made
        running = getattr(self.inner_model, "running", None)
        shaded = None if running is None else running.setup.shaded
        return mask if shaded is None else shaded(mask, sigma.reshape(-1)[0].float().cpu())


def sample_with(
    function: Callable[..., Tensor],
    options: tuple[Mapping[str, Any], bool],
    model_wrap: Any,
    sigmas: Tensor,
    extra_args: Options,
    callback: Any,
    noise: Tensor,
    latent_image: Tensor | None,
    denoise_mask: Tensor | None,
    disable: bool,
) -> Tensor:
    """A sampler function's run, in the model's units. options: the function's, and whether the kept part of a
    masked latent gets other noise than the run's.
    """
    more, random = options
    model = MaskedModel(model_wrap, sigmas)
    model.latent_image = latent_image
    seed = extra_args.get("seed", 41)
    model.noise = masked_noise(noise.shape, int(seed)).to(noise) if random else noise
    sampling = model_wrap.inner_model.model_sampling
    top, first = float(sampling.sigma_max), float(sigmas[0])
    full = first > top or abs(top - first) <= 1e-5 * max(abs(top), abs(first))
    x = sampling.noise_scaling(sigmas[0], noise, latent_image, full)
    steps = len(sigmas) - 1

    def told(at: Mapping[str, Any]) -> None:
        callback(at["i"], at["denoised"], at["x"], steps)

    samples = function(
        model,
        x,
        sigmas,
        extra_args={**extra_args, "denoise_mask": denoise_mask},
        callback=None if callback is None else told,
        disable=disable,
        **more,
    )
    made: Tensor = sampling.inverse_noise_scaling(sigmas[-1], samples)
    return made


def drive(
    name: str,
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Any = None,
    **options: Any,
) -> Tensor:
    """One of the server's samplers over whatever answers model(x, sigma, **extra_args).

    Raises: UnsupportedOption for an option that it does not take.
    """
    extra, rows = dict(extra_args or {}), x.new_ones([len(x)])
    prediction, seed = _inner(model).host.prediction, extra.get("seed") or 0
    levels = sigmas.detach().float().cpu()
    requests = make_sampler(
        name, x, levels, prediction=prediction, seed=int(seed), options=tuple(options.items())
    )
    try:
        request = next(requests)
        while True:
            reply = _answer(model, request, rows, extra)
            if callback is not None and request.step is not None:
                done = reply[0] if request.uncond else reply
                at = {"x": request.x, "i": request.step, "denoised": done}
                callback({**at, "sigma": request.sigma.to(x), "sigma_hat": request.sigma.to(x)})
            request = requests.send(reply)
    except StopIteration as end:
        made: Tensor = end.value
        return made


def _answer(model: Any, request: DenoiseRequest, rows: Tensor, extra: Options) -> Tensor:
    sigma = request.sigma.to(rows) * rows
    if not request.uncond:
        plain: Tensor = model(request.x, sigma, **extra)
        return plain
    seen: list[Tensor] = []

    def watch(args: Mapping[str, Any]) -> Tensor:
        seen[:] = [args["uncond_denoised"]]
        denoised: Tensor = args["denoised"]
        return denoised

    options = dict(extra.get("model_options") or {})
    options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", ()), watch]
    options["disable_cfg1_optimization"] = True
    guided = model(request.x, sigma, **{**extra, "model_options": options})
    return torch.stack([guided, seen[0]])


def _inner(model: Any) -> RunModel:
    """The run's model behind what a sampler function was given, wrapped or not."""
    while not isinstance(model, RunModel):
        model = model.inner_model
    return model


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
        _ServerSampler(setup) if sampler is None else sampler,
        setup.sigmas,
        setup.mask,
        lambda step, denoised, x, total: last.__setitem__(slice(None), [denoised]),
        True,
        setup.seed,
    )
    return Conducted(samples, last[0] if last else None)


class _ServerSampler:
    """The server's sampler as a SAMPLER value."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: Options,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        setup = self._setup

        def function(*args: Any, disable: Any = None, **more: Any) -> Tensor:
            return drive(setup.sampler, *args, **more)

        options = dict(setup.options), setup.sampler == "ddim"
        return sample_with(
            function,
            options,
            model_wrap,
            sigmas,
            extra_args,
            callback,
            noise,
            latent_image,
            denoise_mask,
            True,
        )


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
