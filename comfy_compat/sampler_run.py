"""The sampler's part of a run conducted by packs' functions: a pack's function, or one of the server's."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from backend.sampling.noise import masked_noise
from backend.sampling.request import DenoiseRequest
from backend.sampling.samplers import make_sampler
from comfy_compat.run_model import RunModel

Options = dict[str, Any]


class FunctionSampler:
    """A sampler function as a run's guider calls it: the sampler's part of a run, in the model's units.

    extra_options: the function's own; inpaint_options: `random`, whether the kept part of a masked latent
    gets other noise than the run's.
    """

    def __init__(
        self,
        sampler_function: Callable[..., Tensor],
        extra_options: Mapping[str, Any] | None = None,
        inpaint_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampler_function = sampler_function
        self.extra_options, self.inpaint_options = dict(extra_options or {}), dict(inpaint_options or {})

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
        model = MaskedModel(model_wrap, sigmas)
        model.latent_image = latent_image
        seed = int(extra_args.get("seed", 41))
        model.noise = (
            masked_noise(noise.shape, seed).to(noise) if self.inpaint_options.get("random") else noise
        )
        sampling = model_wrap.inner_model.model_sampling
        full = starts_from_noise(model_wrap, sigmas)
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, full)
        steps = len(sigmas) - 1

        def told(at: Mapping[str, Any]) -> None:
            callback(at["i"], at["denoised"], at["x"], steps)

        samples = self.sampler_function(
            model,
            x,
            sigmas,
            extra_args={**extra_args, "denoise_mask": denoise_mask},
            callback=None if callback is None else told,
            disable=disable_pbar,
            **self.extra_options,
        )
        made: Tensor = sampling.inverse_noise_scaling(sigmas[-1], samples)
        return made


def starts_from_noise(model_wrap: Any, sigmas: Tensor) -> bool:
    """Whether a schedule begins at the model's highest noise level, or above."""
    top, first = float(model_wrap.inner_model.model_sampling.sigma_max), float(sigmas[0])
    return first > top or abs(top - first) <= 1e-5 * max(abs(top), abs(first))


class NamedSampler:
    """Stands for one of the server's samplers where ComfyUI has a function."""

    def __init__(self, name: str) -> None:
        self.sampler = name
        self.__name__ = f"sample_{name}"

    def __call__(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Any = None,
        disable: Any = None,
        **options: Any,
    ) -> Tensor:
        """The sampler itself, over what a sampler function is given as its model."""
        return drive(self.sampler, model, x, sigmas, extra_args, callback, **options)


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
