"""Samplers with options of their own: one node per sampler."""

from typing import Annotated

from backend.guiders import Sampler
from backend.node import Choice, Float, Int, node
from backend.references import Model
from backend.resize import LATENT_METHODS
from nodes.sampling import CUSTOM, EXTRAS
from nodes.text import one_of

CATEGORY = f"{CUSTOM}/samplers"
Number = Annotated[float, Float(0.0, 100.0, step=0.01, round=False)]
NoiseDevice = Annotated[str, Choice(("gpu", "cpu"))]


def optioned(name: str, **options: float | int | str | bool) -> Sampler:
    """A sampler with options, in a fixed order."""
    return Sampler(name, tuple(options.items()))


def sde(name: str, noise_device: str, **options: float | int | str | bool) -> Sampler:
    """An SDE sampler; where its noise is made is part of ComfyUI's names."""
    return optioned(name if noise_device == "cpu" else f"{name}_gpu", **options)


@node("SamplerEulerAncestral", category=CATEGORY, module=EXTRAS)
def sampler_euler_ancestral(*, eta: Number = 1.0, s_noise: Number = 1.0) -> Sampler:
    """Euler steps, each followed by new noise."""
    return optioned("euler_ancestral", eta=eta, s_noise=s_noise)


@node(
    "SamplerEulerAncestralCFGPP", category=CATEGORY, module=EXTRAS, display_name="SamplerEulerAncestralCFG++"
)
def sampler_euler_ancestral_cfg_pp(
    *,
    eta: Annotated[float, Float(0.0, 1.0, step=0.01, round=False)] = 1.0,
    s_noise: Annotated[float, Float(0.0, 10.0, step=0.01, round=False)] = 1.0,
) -> Sampler:
    """The same with CFG++."""
    return optioned("euler_ancestral_cfg_pp", eta=eta, s_noise=s_noise)


@node("SamplerLMS", category=CATEGORY, module=EXTRAS)
def sampler_lms(*, order: Annotated[int, Int(1, 100)] = 4) -> Sampler:
    """Linear multistep."""
    return optioned("lms", order=order)


@node(
    "SamplerEulerCFGpp",
    category="_for_testing",
    module="comfy_extras.nodes_advanced_samplers",
    display_name="SamplerEulerCFG++",
    experimental=True,
)
def sampler_euler_cfg_pp(*, version: Annotated[str, one_of("regular", "alternative")]) -> Sampler:
    """Euler steps with CFG++."""
    return Sampler("euler_cfg_pp" if version == "regular" else "euler_cfg_pp_alternative")


@node("SamplerER_SDE", category=CATEGORY, module=EXTRAS)
def sampler_er_sde(
    *,
    solver_type: Annotated[str, Choice(("ER-SDE", "Reverse-time SDE", "ODE"), style="COMBO")],
    max_stage: Annotated[int, Int(1, 3)] = 3,
    eta: Number = 1.0,
    s_noise: Number = 1.0,
) -> Sampler:
    """Extended reverse-time SDE solver; `eta` is for "Reverse-time SDE" alone."""
    return optioned("er_sde", s_noise=s_noise, max_stage=max_stage, solver_type=solver_type, eta=eta)


@node("SamplerSASolver", category=CATEGORY, module=EXTRAS)
def sampler_sa_solver(
    *,
    model: Model,
    eta: Annotated[float, Float(0.0, 10.0, step=0.01, round=False)] = 1.0,
    sde_start_percent: Annotated[float, Float(0.0, 1.0, step=0.001)] = 0.2,
    sde_end_percent: Annotated[float, Float(0.0, 1.0, step=0.001)] = 0.8,
    s_noise: Number = 1.0,
    predictor_order: Annotated[int, Int(1, 6)] = 3,
    corrector_order: Annotated[int, Int(0, 6)] = 4,
    use_pece: bool,
    simple_order_2: bool,
) -> Sampler:
    """SA-Solver; its noise is added in a part of the run. The percents are those of the sampled model."""
    return optioned(
        "sa_solver",
        eta=eta,
        sde_start_percent=sde_start_percent,
        sde_end_percent=sde_end_percent,
        s_noise=s_noise,
        predictor_order=predictor_order,
        corrector_order=corrector_order,
        use_pece=use_pece,
        simple_order_2=simple_order_2,
    )


@node("SamplerLCMUpscale", category=CATEGORY, module="comfy_extras.nodes_advanced_samplers")
def sampler_lcm_upscale(
    *,
    scale_ratio: Annotated[float, Float(0.1, 20.0, step=0.01)] = 1.0,
    scale_steps: Annotated[int, Int(-1, 1000, step=1)] = -1,
    upscale_method: Annotated[str, one_of("bislerp", *(m for m in LATENT_METHODS if m != "bislerp"))],
) -> Sampler:
    """LCM steps that enlarge the latent on the way; -1: in the first half of the steps."""
    return optioned(
        "lcm_upscale",
        total_upscale=scale_ratio,
        upscale_steps=max(scale_steps, -1),
        upscale_method=upscale_method,
    )


@node("SamplerDPMPP_3M_SDE", category=CATEGORY, module=EXTRAS)
def sampler_dpmpp_3m_sde(*, eta: Number = 1.0, s_noise: Number = 1.0, noise_device: NoiseDevice) -> Sampler:
    """DPM-Solver++(3M) SDE."""
    return sde("dpmpp_3m_sde", noise_device, eta=eta, s_noise=s_noise)


@node("SamplerDPMPP_2M_SDE", category=CATEGORY, module=EXTRAS)
def sampler_dpmpp_2m_sde(
    *,
    solver_type: Annotated[str, Choice(("midpoint", "heun"))],
    eta: Number = 1.0,
    s_noise: Number = 1.0,
    noise_device: NoiseDevice,
) -> Sampler:
    """DPM-Solver++(2M) SDE."""
    return sde("dpmpp_2m_sde", noise_device, eta=eta, s_noise=s_noise, solver_type=solver_type)


@node("SamplerDPMPP_SDE", category=CATEGORY, module=EXTRAS)
def sampler_dpmpp_sde(
    *, eta: Number = 1.0, s_noise: Number = 1.0, r: Number = 0.5, noise_device: NoiseDevice
) -> Sampler:
    """DPM-Solver++ SDE."""
    return sde("dpmpp_sde", noise_device, eta=eta, s_noise=s_noise, r=r)


@node("SamplerDPMPP_2S_Ancestral", category=CATEGORY, module=EXTRAS)
def sampler_dpmpp_2s_ancestral(*, eta: Number = 1.0, s_noise: Number = 1.0) -> Sampler:
    """DPM-Solver++(2S), each step followed by new noise."""
    return optioned("dpmpp_2s_ancestral", eta=eta, s_noise=s_noise)


@node("SamplerDPMAdaptative", category=CATEGORY, module=EXTRAS)
def sampler_dpm_adaptive(
    *,
    order: Annotated[int, Int(2, 3)] = 3,
    rtol: Number = 0.05,
    atol: Number = 0.0078,
    h_init: Number = 0.05,
    pcoeff: Number = 0.0,
    icoeff: Number = 1.0,
    dcoeff: Number = 0.0,
    accept_safety: Number = 0.81,
    eta: Number = 0.0,
    s_noise: Number = 1.0,
) -> Sampler:
    """DPM-Solver that chooses its steps by its error."""
    return optioned(
        "dpm_adaptive",
        order=order,
        rtol=rtol,
        atol=atol,
        h_init=h_init,
        pcoeff=pcoeff,
        icoeff=icoeff,
        dcoeff=dcoeff,
        accept_safety=accept_safety,
        eta=eta,
        s_noise=s_noise,
    )
