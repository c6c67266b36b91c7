"""Further workflows, small ones over the SD1.5 layout: each guidance option and condition of its own.

Their results, `further.safetensors`, were recorded with `record.py` from ComfyUI 0.3.64 started as for the
reference set: --cpu --force-fp32 --fp32-unet --fp32-vae --fp32-text-enc.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Prompt: TypeAlias = dict[str, dict[str, Any]]
Chain: TypeAlias = tuple[tuple[str, Mapping[str, Any]], ...]  # model nodes, (class, inputs), first to last
POSITIVE = "a red fox sitting on a mossy rock, autumn forest, soft light"
NEGATIVE = "blurry, low quality"
KSAMPLER = {
    "seed": 42,
    "steps": 4,
    "cfg": 7.5,
    "sampler_name": "euler",
    "scheduler": "normal",
    "denoise": 1.0,
}


class Workflow:
    """A prompt in the making."""

    def __init__(self) -> None:
        self.prompt: Prompt = {}
        self.model = self.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
        self.clip = [self.model[0], 1]
        self.positive, self.negative = self.text(POSITIVE), self.text(NEGATIVE)
        self.latent = self.add("EmptyLatentImage", width=128, height=96, batch_size=1)

    def add(self, class_type: str, /, **inputs: object) -> list[Any]:
        """A node; its first output."""
        key = str(len(self.prompt) + 1)
        self.prompt[key] = {"class_type": class_type, "inputs": inputs}
        return [key, 0]

    def text(self, text: str, clip: list[Any] | None = None) -> list[Any]:
        return self.add("CLIPTextEncode", text=text, clip=clip or self.clip)

    def patched(self, *chain: tuple[str, Mapping[str, Any]]) -> "Workflow":
        """The model after these nodes."""
        for class_type, inputs in chain:
            given = {n: v(self) if callable(v) else v for n, v in inputs.items()}
            self.model = self.add(class_type, model=self.model, **given)
        return self

    def hooks(self, keyframes: bool) -> list[Any]:
        """Two LoRA hooks, with keyframes or without."""
        hooks = self.add(
            "CreateHookLora", lora_name="lora_sd15.safetensors", strength_model=0.8, strength_clip=0.6
        )
        hooks = self.add(
            "CreateHookLoraModelOnly",
            lora_name="lora_sd15_b.safetensors",
            strength_model=0.5,
            prev_hooks=hooks,
        )
        if not keyframes:
            return hooks
        frames = self.add("CreateHookKeyframe", strength_mult=0.3, start_percent=0.0)
        frames = self.add(
            "CreateHookKeyframesInterpolated",
            strength_start=0.5,
            strength_end=1.5,
            interpolation="ease_in",
            start_percent=0.2,
            end_percent=0.9,
            keyframes_count=3,
            print_keyframes=False,
            prev_hook_kf=frames,
        )
        return self.add("SetHookKeyframes", hooks=hooks, hook_kf=frames)

    def picture(self) -> "Workflow":
        """From an encoded picture in place of an empty latent."""
        image = self.add("LoadImage", image="photo.png")
        image = self.add(
            "ImageScale", image=image, upscale_method="area", width=128, height=96, crop="disabled"
        )
        self.latent = self.add("VAEEncode", pixels=image, vae=[self.clip[0], 2])
        return self

    def masked(self) -> "Workflow":
        mask = self.add("LoadImageMask", image="mask_soft.png", channel="red")
        self.latent = self.add("SetLatentNoiseMask", samples=self.latent, mask=mask)
        return self

    def sampled(self, **changes: object) -> Prompt:
        """The whole prompt: sampled by a KSampler and saved."""
        samples = self.add(
            "KSampler",
            model=self.model,
            positive=self.positive,
            negative=self.negative,
            latent_image=self.latent,
            **{**KSAMPLER, **changes},
        )
        return self.saved(samples)

    def saved(self, samples: list[Any]) -> Prompt:
        self.add("SaveLatent", samples=samples, filename_prefix="further/latent")
        return self.prompt


PATCHES: dict[str, Chain] = {
    "apg": (("APG", {"eta": 0.5, "norm_threshold": 5.0, "momentum": -0.5}),),
    "apg-plain": (("APG", {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0}),),
    "tcfg": (("TCFG", {}),),
    "fresca": (("FreSca", {"scale_low": 0.9, "scale_high": 1.5, "freq_cutoff": 3}),),
    "cfg-zero-star": (("CFGZeroStar", {}),),
    "cfg-norm": (("CFGNorm", {"strength": 0.9}),),
    "mahiro": (("Mahiro", {}),),
    "renorm-cfg": (("RenormCFG", {"cfg_trunc": 100.0, "renorm_cfg": 0.9}),),
    "renorm-cfg-truncated": (("RenormCFG", {"cfg_trunc": 3.0, "renorm_cfg": 0.0}),),
    "epsilon-scaling": (("Epsilon Scaling", {"scaling_factor": 1.02}),),
    "perp-neg": (("PerpNeg", {"empty_conditioning": lambda w: w.text(""), "neg_scale": 1.3}),),
    "operation-sharpen": (
        (
            "LatentApplyOperationCFG",
            {"operation": lambda w: w.add("LatentOperationSharpen", sharpen_radius=3, sigma=0.7, alpha=0.1)},
        ),
    ),
    "operation-tonemap": (
        (
            "LatentApplyOperationCFG",
            {"operation": lambda w: w.add("LatentOperationTonemapReinhard", multiplier=0.8)},
        ),
    ),
    "hypertile": (("HyperTile", {"tile_size": 32, "swap_size": 2, "max_depth": 1, "scale_depth": False}),),
    "hypertile-swapping": (
        ("HyperTile", {"tile_size": 32, "swap_size": 4, "max_depth": 1, "scale_depth": True}),
    ),
    "tome": (("TomePatchModel", {"ratio": 0.4}),),
    "easy-cache": (
        ("EasyCache", {"reuse_threshold": 0.5, "start_percent": 0.0, "end_percent": 0.95, "verbose": False}),
    ),
    "lazy-cache": (
        ("LazyCache", {"reuse_threshold": 0.5, "start_percent": 0.0, "end_percent": 0.95, "verbose": False}),
    ),
    "slg-without-blocks": (
        (
            "SkipLayerGuidanceDiT",
            {
                "double_layers": "0",
                "single_layers": "",
                "scale": 3.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
                "rescaling_scale": 0.5,
            },
        ),
    ),
    "self-attention-multiply": (("UNetSelfAttentionMultiply", {"q": 1.2, "k": 0.9, "v": 1.1, "out": 0.8}),),
    "lora-then-cross-multiply": (
        ("LoraLoaderModelOnly", {"lora_name": "lora_sd15.safetensors", "strength_model": 0.8}),
        ("UNetCrossAttentionMultiply", {"q": 1.2, "k": 0.9, "v": 1.1, "out": 0.7}),
        ("LoraLoaderModelOnly", {"lora_name": "lora_sd15_b.safetensors", "strength_model": 0.5}),
    ),
    "temporal-multiply": (
        (
            "UNetTemporalAttentionMultiply",
            {
                "self_structural": 1.3,
                "self_temporal": 0.0,
                "cross_structural": 0.6,
                "cross_temporal": 0.0,
            },
        ),
    ),
    "compute-dtype": (("ModelComputeDtype", {"dtype": "fp32"}),),
    "continuous-v": (
        ("ModelSamplingContinuousV", {"sampling": "v_prediction", "sigma_max": 80.0, "sigma_min": 0.05}),
    ),
    "continuous-edm": (
        ("ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 80.0, "sigma_min": 0.02}),
    ),
    "continuous-cosmos": (
        ("ModelSamplingContinuousEDM", {"sampling": "cosmos_rflow", "sigma_max": 80.0, "sigma_min": 0.02}),
    ),
    "several": (
        ("PerturbedAttentionGuidance", {"scale": 2.0}),
        ("APG", {"eta": 0.3, "norm_threshold": 8.0, "momentum": 0.2}),
        ("TCFG", {}),
        ("RescaleCFG", {"multiplier": 0.6}),
        ("Epsilon Scaling", {"scaling_factor": 0.99}),
        ("CFGNorm", {"strength": 1.1}),
    ),
    "self-attention-then-mahiro": (
        ("SelfAttentionGuidance", {"scale": 0.8, "blur_sigma": 2.0}),
        ("Mahiro", {}),
    ),
}


def prompts() -> dict[str, Prompt]:
    """Every workflow, by name."""
    found = {f"patch-{name}": Workflow().patched(*chain).sampled() for name, chain in PATCHES.items()}
    for name in ("apg", "tcfg", "fresca", "cfg-zero-star", "mahiro", "operation-tonemap", "renorm-cfg"):
        found[f"patch-{name}-at-cfg-1"] = Workflow().patched(*PATCHES[name]).sampled(cfg=1.0)
    found["patch-tcfg-cfg-pp"] = (
        Workflow().patched(*PATCHES["tcfg"]).sampled(sampler_name="euler_cfg_pp", cfg=1.5)
    )
    for name in ("easy-cache", "lazy-cache"):
        found[f"patch-{name}-12-steps"] = (
            Workflow().patched(*PATCHES[name]).sampled(steps=12, sampler_name="dpmpp_2m", scheduler="karras")
        )
    for shape in ("Linear", "Triangle"):
        workflow = Workflow().patched((f"Video{shape}CFGGuidance", {"min_cfg": 2.0}))
        workflow.latent = workflow.add("EmptyLatentImage", width=64, height=64, batch_size=3)
        found[f"patch-video-{shape.lower()}"] = workflow.sampled()
    for strength in (1.0, 0.4):
        workflow = Workflow().patched(("DifferentialDiffusion", {"strength": strength})).picture().masked()
        found[f"patch-differential-{strength}"] = workflow.sampled(denoise=0.8, sampler_name="dpmpp_2m")
    return {**found, **_custom_samplers(), **_hooked(), **_foreign()}


def _hooked() -> dict[str, Prompt]:
    """LoRA hooks, keyframes, masks with a default."""
    found = {}
    for name, keyframes in (("plain", False), ("keyframes", True)):
        workflow = Workflow()
        hooks = workflow.hooks(keyframes)
        workflow.positive = workflow.add(
            "ConditioningSetProperties",
            cond_NEW=workflow.positive,
            strength=1.0,
            set_cond_area="default",
            hooks=hooks,
        )
        found[f"hook-lora-{name}"] = workflow.sampled(steps=6)
    for scheduled in (False, True):
        workflow = Workflow()
        clip = workflow.add(
            "SetClipHooks",
            clip=workflow.clip,
            apply_to_conds=True,
            schedule_clip=scheduled,
            hooks=workflow.hooks(keyframes=True),
        )
        workflow.positive = workflow.text(POSITIVE, clip)
        found[f"hook-clip-{'scheduled' if scheduled else 'still'}"] = workflow.sampled(steps=6)
    workflow = Workflow()
    clip = workflow.add("CLIPAttentionMultiply", clip=workflow.clip, q=1.1, k=0.9, v=1.2, out=0.9)
    workflow.positive = workflow.text(POSITIVE, clip)
    found["clip-multiply"] = workflow.sampled()
    workflow = Workflow()
    mask = workflow.add("LoadImageMask", image="mask_soft.png", channel="red")
    other = workflow.text("a frozen lake at night")
    pair = workflow.add(
        "PairConditioningSetProperties",
        positive_NEW=workflow.positive,
        negative_NEW=workflow.negative,
        strength=0.8,
        set_cond_area="default",
        mask=mask,
        hooks=workflow.hooks(keyframes=False),
        timesteps=workflow.add("ConditioningTimestepsRange", start_percent=0.0, end_percent=0.7),
    )
    workflow.positive = workflow.add("ConditioningSetDefaultCombine", cond=pair, cond_DEFAULT=other)
    workflow.negative = workflow.add(
        "ConditioningSetDefaultCombine", cond=[pair[0], 1], cond_DEFAULT=workflow.negative
    )
    found["hook-masked-default"] = workflow.sampled(steps=6)
    return found


def _foreign() -> dict[str, Prompt]:
    """Functions of a node pack (`pack/functions.py`) in every part of a run."""
    found = {}
    for kind in ("midpoint", "pulled", "pushed", "within", "class"):
        workflow = Workflow()
        sampler = workflow.add("ParitySampler", kind=kind)
        found[f"foreign-sampler-{kind}"] = _run(workflow, sampler, _levels(workflow))
    workflow = Workflow().picture().masked()
    sampler = workflow.add("ParitySampler", kind="midpoint")
    found["foreign-sampler-masked"] = _run(workflow, sampler, _levels(workflow))
    for kind in ("repelled", "scheduled", "resized", "named"):
        workflow = Workflow()
        found[f"foreign-guider-{kind}"] = _guided(workflow, _guider(workflow, kind), "euler")
    workflow = Workflow()
    found["foreign-guider-cfg-pp"] = _guided(workflow, _guider(workflow, "scheduled"), "dpmpp_2m_cfg_pp")
    for kind in ("outer", "sampler", "predict", "batch", "apply", "network", "all", "own batch", "told"):
        workflow = Workflow().patched(("ParityWrapped", {"kind": kind}))
        found[f"foreign-wrapped-{kind.replace(' ', '-')}"] = workflow.sampled(sampler_name="dpmpp_2m")
    workflow = Workflow().patched(("ParityWrapped", {"kind": "mask"})).picture().masked()
    found["foreign-wrapped-mask"] = workflow.sampled(denoise=0.8)
    workflow = Workflow().patched(("ParityWrapped", {"kind": "all"}))
    found["foreign-all"] = _guided(workflow, _guider(workflow, "repelled"), "", noise="ParityNoise")
    return found


def _levels(workflow: Workflow) -> list[Any]:
    return workflow.add("BasicScheduler", model=workflow.model, scheduler="karras", steps=5, denoise=1.0)


def _guider(workflow: Workflow, kind: str) -> list[Any]:
    sides = {"positive": workflow.positive, "negative": workflow.negative}
    return workflow.add("ParityGuider", model=workflow.model, kind=kind, **sides)


def _guided(workflow: Workflow, guider: list[Any], sampler: str, noise: str = "RandomNoise") -> Prompt:
    """sampler: a name, or "" for the pack's own."""
    seed = {"seed" if noise == "ParityNoise" else "noise_seed": 7}
    samples = workflow.add(
        "SamplerCustomAdvanced",
        noise=workflow.add(noise, **seed),
        guider=guider,
        sampler=workflow.add("KSamplerSelect", sampler_name=sampler)
        if sampler
        else workflow.add("ParitySampler", kind="midpoint"),
        sigmas=_levels(workflow),
        latent_image=workflow.latent,
    )
    return workflow.saved(samples)


def _custom_samplers() -> dict[str, Prompt]:
    found = {}
    samplers: dict[str, tuple[str, dict[str, Any]]] = {
        "er-sde-reverse": (
            "SamplerER_SDE",
            {"solver_type": "Reverse-time SDE", "max_stage": 3, "eta": 0.7, "s_noise": 1.1},
        ),
        "er-sde-ode": ("SamplerER_SDE", {"solver_type": "ODE", "max_stage": 2, "eta": 1.0, "s_noise": 1.0}),
        "sa-solver": (
            "SamplerSASolver",
            {
                "eta": 0.8,
                "sde_start_percent": 0.1,
                "sde_end_percent": 0.9,
                "s_noise": 1.0,
                "predictor_order": 2,
                "corrector_order": 3,
                "use_pece": True,
                "simple_order_2": True,
            },
        ),
        "euler-cfg-pp-alternative": ("SamplerEulerCFGpp", {"version": "alternative"}),
        "lcm-upscale": (
            "SamplerLCMUpscale",
            {"scale_ratio": 1.5, "scale_steps": -1, "upscale_method": "bislerp"},
        ),
        "euler-ancestral-cfg-pp": ("SamplerEulerAncestralCFGPP", {"eta": 0.6, "s_noise": 1.0}),
    }
    schedules: dict[str, tuple[str, dict[str, Any]]] = {
        "gits": ("GITSScheduler", {"coeff": 1.15, "steps": 5, "denoise": 1.0}),
        "beta": ("BetaSamplingScheduler", {"steps": 4, "alpha": 0.9, "beta": 0.4}),
        "turbo": ("SDTurboScheduler", {"steps": 3, "denoise": 0.8}),
    }
    for name, (class_type, inputs) in samplers.items():
        workflow = Workflow()
        sampler = workflow.add(class_type, **_with_model(workflow, class_type, inputs))
        sigmas = workflow.add(
            "BasicScheduler", model=workflow.model, scheduler="karras", steps=5, denoise=1.0
        )
        found[f"sampler-{name}"] = _run(workflow, sampler, sigmas)
    for name, (class_type, inputs) in schedules.items():
        workflow = Workflow()
        sampler = workflow.add("KSamplerSelect", sampler_name="euler")
        sigmas = workflow.add(class_type, **_with_model(workflow, class_type, inputs))
        found[f"schedule-{name}"] = _run(workflow, sampler, sigmas)
    workflow = Workflow().picture()
    sigmas = workflow.add("KarrasScheduler", steps=4, sigma_max=3.0, sigma_min=0.1, rho=7.0)
    noise = workflow.add("RandomNoise", noise_seed=5)
    noised = workflow.add(
        "AddNoise", model=workflow.model, noise=noise, sigmas=sigmas, latent_image=workflow.latent
    )
    found["add-noise"] = workflow.saved(noised)
    return found


def _with_model(workflow: Workflow, class_type: str, inputs: dict[str, Any]) -> dict[str, Any]:
    takes = class_type in ("SamplerSASolver", "BetaSamplingScheduler", "SDTurboScheduler")
    return {"model": workflow.model, **inputs} if takes else inputs


def _run(workflow: Workflow, sampler: list[Any], sigmas: list[Any]) -> Prompt:
    samples = workflow.add(
        "SamplerCustom",
        model=workflow.model,
        add_noise=True,
        noise_seed=42,
        cfg=4.0,
        positive=workflow.positive,
        negative=workflow.negative,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=workflow.latent,
    )
    return workflow.saved(samples)
