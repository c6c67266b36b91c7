"""Nodes that bring functions of their own into a run, in every way that packs have: samplers, guiders, noise,
and wrappers at each level.
"""

import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.k_diffusion import sampling as k_diffusion

WRAPPERS = comfy.patcher_extension.WrappersMP
CALLBACKS = comfy.patcher_extension.CallbacksMP


class ParityNode:
    FUNCTION = "run"
    CATEGORY = "parity"


def midpoint(model, x, sigmas, extra_args=None, callback=None, disable=None, pull=0.0):
    """A second-order sampler of this pack's own."""
    extra, rows = extra_args or {}, x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * rows, **extra)
        if callback is not None:
            told = {"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised}
            callback(told)
        slope = (x - denoised) / sigmas[i]
        if sigmas[i + 1] == 0:
            x = denoised + pull * (x - denoised)
            continue
        middle = (sigmas[i] * sigmas[i + 1]).sqrt()
        inner = model(x + slope * (middle - sigmas[i]), middle * rows, **extra)
        x = x + (x + slope * (middle - sigmas[i]) - inner) / middle * (sigmas[i + 1] - sigmas[i])
    return x


def pushed_cfg(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Euler steps that look at the unguided estimate through a function of their own."""
    extra, rows, seen = dict(extra_args or {}), x.new_ones([x.shape[0]]), {}

    def watch(args):
        seen["uncond"] = args["uncond_denoised"]
        return args["denoised"]

    options = comfy.model_patcher.set_model_options_post_cfg_function(
        extra.get("model_options", {}).copy(), watch, disable_cfg1_optimization=True
    )
    extra["model_options"] = options
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * rows, **extra)
        x = denoised + (x - seen["uncond"]) / sigmas[i] * sigmas[i + 1]
    return x


def within_range(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """One of the known samplers, over levels that are cut to the model's range."""
    sampling = model.inner_model.inner_model.model_sampling
    top = float(sampling.sigma(sampling.timestep(sampling.sigma_max)))
    kept = torch.minimum(sigmas, sigmas.new_tensor(top * 0.999))
    return k_diffusion.sample_dpmpp_2m(model, x, kept, extra_args=extra_args, callback=callback)


class ParitySampler(ParityNode):
    RETURN_TYPES = ("SAMPLER",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (["midpoint", "pulled", "pushed", "within", "class"],)}}

    def run(self, kind):
        options = {"pull": 0.25} if kind == "pulled" else {}
        functions = {"pushed": pushed_cfg, "within": within_range}
        if kind == "class":
            return (HalfWay(),)
        return (comfy.samplers.KSAMPLER(functions.get(kind, midpoint), options),)


class HalfWay(comfy.samplers.Sampler):
    """A SAMPLER with a `sample` of its own: two estimates, mixed."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *args, **kwargs):
        sampling = model_wrap.inner_model.model_sampling
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas))
        rows = x.new_ones([x.shape[0]])
        far = model_wrap(x, sigmas[0] * rows, **extra_args)
        middle = far + noise * sigmas[len(sigmas) // 2]
        return 0.5 * (far + model_wrap(middle, sigmas[len(sigmas) // 2] * rows, **extra_args))


class Repelled(comfy.samplers.CFGGuider):
    """Guidance that is stronger where the noise is."""

    def set_strength(self, strength):
        self.strength = strength

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conds = [self.conds["negative"], self.conds["positive"]]
        away, to = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        share = float(timestep[0] / self.inner_model.model_sampling.sigma_max)
        return away + (to - away) * (1.0 + self.strength * share)


class Scheduled(comfy.samplers.CFGGuider):
    """The usual guidance, at another scale from step to step."""

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        self.set_cfg(7.0 if float(timestep[0]) > 2.0 else 2.0)
        return super().predict_noise(x, timestep, model_options, seed)


class Resized(comfy.samplers.CFGGuider):
    """A `sample` around the usual one."""

    def sample(self, noise, latent_image, *args, **kwargs):
        return super().sample(noise * 0.9, latent_image, *args, **kwargs) * 1.1


class Named(comfy.samplers.CFGGuider):
    """Three sides under names of its own."""

    def set_three(self, positive, middle, negative):
        self.inner_set_conds({"to": positive, "over": middle, "from": negative})

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conds = [self.conds[name] for name in ("to", "over", "from")]
        to, over, away = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        return comfy.samplers.cfg_function(
            self.inner_model, to, away, 3.0, x, timestep, model_options, conds[0], conds[2]
        ) + 0.5 * (over - away)


class ParityGuider(ParityNode):
    RETURN_TYPES = ("GUIDER",)

    @classmethod
    def INPUT_TYPES(cls):
        sides = {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",)}
        kinds = (["repelled", "scheduled", "resized", "named"],)
        return {"required": {"model": ("MODEL",), **sides, "kind": kinds}}

    def run(self, model, positive, negative, kind):
        guider = {"repelled": Repelled, "scheduled": Scheduled, "resized": Resized, "named": Named}[kind](
            model
        )
        if kind == "named":
            guider.set_three(positive, negative, negative)
            return (guider,)
        guider.set_conds(positive, negative)
        guider.set_cfg(4.0)
        if kind == "repelled":
            guider.set_strength(6.0)
        return (guider,)


class Banded:
    """NOISE: stripes over the usual one."""

    def __init__(self, seed):
        self.seed = seed

    def generate_noise(self, input_latent):
        samples = input_latent["samples"]
        noise = torch.randn(samples.shape, generator=torch.manual_seed(self.seed), device="cpu")
        return noise + torch.linspace(-0.3, 0.3, samples.shape[-1])


class ParityNoise(ParityNode):
    RETURN_TYPES = ("NOISE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    def run(self, seed):
        return (Banded(seed),)


def outer_sample(executor, noise, latent_image, *args, **kwargs):
    return executor(noise * 0.95, latent_image, *args, **kwargs) + 0.01


def sampler_sample(executor, guider, sigmas, *args, **kwargs):
    return executor(guider, sigmas * 0.98, *args, **kwargs)


def predict_noise(executor, x, timestep, *args, **kwargs):
    return executor(x, timestep, *args, **kwargs) * 0.97


def calc_cond_batch(executor, model, conds, x_in, timestep, model_options):
    to, away = executor(model, conds, x_in, timestep, model_options)
    return [to, 0.9 * away + 0.1 * to]


def apply_model(executor, x, t, *args, **kwargs):
    return executor(x * 0.99, t, *args, **kwargs)


def diffusion_model(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
    return executor(x, timesteps, context * 1.02, y, control, transformer_options, **kwargs) * 0.98


def own_batch(args):
    made = comfy.samplers.calc_cond_batch(
        args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
    )
    return [made[0] * 1.01, made[1]]


def masks_open(sigma, denoise_mask, extra_options):
    share = float(sigma[0] / extra_options["sigmas"][0])
    return (denoise_mask + 0.3 * (1.0 - share)).clamp(0.0, 1.0)


def counted(patcher):
    """Told before a run. It looks at what it is given."""
    assert patcher.get_model_object("model_sampling").sigma_max > 0


KINDS = {
    "outer": (WRAPPERS.OUTER_SAMPLE, outer_sample),
    "sampler": (WRAPPERS.SAMPLER_SAMPLE, sampler_sample),
    "predict": (WRAPPERS.PREDICT_NOISE, predict_noise),
    "batch": (WRAPPERS.CALC_COND_BATCH, calc_cond_batch),
    "apply": (WRAPPERS.APPLY_MODEL, apply_model),
    "network": (WRAPPERS.DIFFUSION_MODEL, diffusion_model),
}


class ParityWrapped(ParityNode):
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": ([*KINDS, "all", "own batch", "mask", "told"],)}}

    def run(self, model, kind):
        model = model.clone()
        if kind == "own batch":
            model.set_model_sampler_calc_cond_batch_function(own_batch)
        elif kind == "mask":
            model.set_model_denoise_mask_function(masks_open)
        elif kind == "told":
            model.add_callback_with_key(CALLBACKS.ON_PRE_RUN, "parity", counted)
        for name in KINDS if kind == "all" else (kind,):
            if name in KINDS:
                model.add_wrapper_with_key(KINDS[name][0], "parity", KINDS[name][1])
        return (model,)


NODES = {cls.__name__: cls for cls in (ParitySampler, ParityGuider, ParityNoise, ParityWrapped)}
