"""Every sampler by ComfyUI's name."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling import adams, ancestral, cfgpp, dpm_solver, multistep, onestep, sde, seeds, unipc
from backend.sampling.names import SAMPLER_NAMES
from backend.sampling.prediction import Prediction
from backend.sampling.request import RunFacts, Sampler, SamplerFunction

Options: TypeAlias = Sequence[tuple[str, float | int | str | bool]]  # as references.Sampler holds them

SAMPLERS: Mapping[str, SamplerFunction] = MappingProxyType(
    {
        "euler": onestep.euler,
        "euler_cfg_pp": cfgpp.euler_cfg_pp,
        "euler_ancestral": ancestral.euler_ancestral,
        "euler_ancestral_cfg_pp": cfgpp.euler_ancestral_cfg_pp,
        "heun": onestep.heun,
        "heunpp2": onestep.heunpp2,
        "dpm_2": onestep.dpm_2,
        "dpm_2_ancestral": ancestral.dpm_2_ancestral,
        "lms": multistep.lms,
        "dpm_fast": dpm_solver.dpm_fast,
        "dpm_adaptive": dpm_solver.dpm_adaptive,
        "dpmpp_2s_ancestral": ancestral.dpmpp_2s_ancestral,
        "dpmpp_2s_ancestral_cfg_pp": cfgpp.dpmpp_2s_ancestral_cfg_pp,
        "dpmpp_sde": sde.dpmpp_sde,
        "dpmpp_sde_gpu": partial(sde.dpmpp_sde, noise_device="gpu"),
        "dpmpp_2m": multistep.dpmpp_2m,
        "dpmpp_2m_cfg_pp": cfgpp.dpmpp_2m_cfg_pp,
        "dpmpp_2m_sde": sde.dpmpp_2m_sde,
        "dpmpp_2m_sde_gpu": partial(sde.dpmpp_2m_sde, noise_device="gpu"),
        "dpmpp_2m_sde_heun": sde.dpmpp_2m_sde_heun,
        "dpmpp_2m_sde_heun_gpu": partial(sde.dpmpp_2m_sde_heun, noise_device="gpu"),
        "dpmpp_3m_sde": sde.dpmpp_3m_sde,
        "dpmpp_3m_sde_gpu": partial(sde.dpmpp_3m_sde, noise_device="gpu"),
        "ddpm": ancestral.ddpm,
        "lcm": ancestral.lcm,
        "ipndm": multistep.ipndm,
        "ipndm_v": multistep.ipndm_v,
        "deis": multistep.deis,
        "res_multistep": cfgpp.res_multistep,
        "res_multistep_cfg_pp": cfgpp.res_multistep_cfg_pp,
        "res_multistep_ancestral": cfgpp.res_multistep_ancestral,
        "res_multistep_ancestral_cfg_pp": cfgpp.res_multistep_ancestral_cfg_pp,
        "gradient_estimation": multistep.gradient_estimation,
        "gradient_estimation_cfg_pp": cfgpp.gradient_estimation_cfg_pp,
        "er_sde": seeds.er_sde,
        "seeds_2": seeds.seeds_2,
        "seeds_3": seeds.seeds_3,
        "sa_solver": adams.sa_solver,
        "sa_solver_pece": adams.sa_solver_pece,
        "ddim": onestep.euler,  # run.py knows the one difference, in masked areas
        "uni_pc": unipc.uni_pc,
        "uni_pc_bh2": unipc.uni_pc_bh2,
    }
)

# Those that a node of their own offers, and KSampler does not.
UNLISTED: Mapping[str, SamplerFunction] = MappingProxyType(
    {"euler_cfg_pp_alternative": cfgpp.euler_cfg_pp_alternative, "lcm_upscale": ancestral.lcm_upscale}
)


def make_sampler(
    name: str, x: Tensor, sigmas: Tensor, *, prediction: Prediction, seed: int, options: Options = ()
) -> Sampler:
    """The sampler's generator over a noised x float32 [B, ...] and sigmas float32 [steps + 1] on the CPU.

    Raises: UnsupportedOption for an unknown name or option.
    """
    if name not in SAMPLERS and name not in UNLISTED:
        raise UnsupportedOption("sampler_name", name, f"Use one of {', '.join(SAMPLER_NAMES)}.")
    function, known = _named(name), option_names(name)
    for key, value in options:
        if key not in known:
            taken = f"It takes {', '.join(known)}." if known else "It takes no options."
            raise UnsupportedOption(f"{name}'s {key}", value, taken)
    return function(x, sigmas, RunFacts(prediction, seed), **dict(options))


def option_names(name: str) -> tuple[str, ...]:
    """The options of a sampler: its keyword-only parameters."""
    parameters = inspect.signature(_named(name)).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def _named(name: str) -> SamplerFunction:
    return SAMPLERS[name] if name in SAMPLERS else UNLISTED[name]
