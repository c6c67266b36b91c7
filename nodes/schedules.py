"""Sigmas: made by a model's schedule or from numbers, cut and joined."""

import math
from itertools import pairwise
from typing import Annotated

import numpy as np

from backend.deferred import torch
from backend.guiders import BetaSchedule, Schedule, TurboSchedule
from backend.node import Choice, Float, Int, node
from backend.ops import ModelSigmas, Op, PercentSigma
from backend.references import Model
from backend.types import Latent, Sigmas
from nodes.gits import gits_levels
from nodes.sampling import CUSTOM, EXTRAS, SchedulerName, Steps
from nodes.text import one_of

SCHEDULERS = f"{CUSTOM}/schedulers"
SIGMAS = f"{CUSTOM}/sigmas"
Sigma = Annotated[float, Float(0.0, 5000.0, step=0.01, round=False)]
Exponent = Annotated[float, Float(0.0, 100.0, step=0.01, round=False)]


@node("BasicScheduler", category=SCHEDULERS, module=EXTRAS)
def basic_scheduler(
    *,
    model: Model,
    scheduler: SchedulerName,
    steps: Steps = 20,
    denoise: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0,
) -> Op[Sigmas]:
    """The sigmas of a model under a schedule; `denoise` below 1 takes the last steps of a longer one."""
    return ModelSigmas(model, Schedule(scheduler, steps, denoise))


@node("SDTurboScheduler", category=SCHEDULERS, module=EXTRAS)
def sd_turbo_scheduler(
    *,
    model: Model,
    steps: Annotated[int, Int(1, 10)] = 1,
    denoise: Annotated[float, Float(0, 1.0, step=0.01)] = 1.0,
) -> Op[Sigmas]:
    """The noise levels that the turbo models were distilled for."""
    return ModelSigmas(model, TurboSchedule(steps, denoise))


@node("BetaSamplingScheduler", category=SCHEDULERS, module=EXTRAS)
def beta_sampling_scheduler(
    *,
    model: Model,
    steps: Steps = 20,
    alpha: Annotated[float, Float(0.0, 50.0, step=0.01, round=False)] = 0.6,
    beta: Annotated[float, Float(0.0, 50.0, step=0.01, round=False)] = 0.6,
) -> Op[Sigmas]:
    """The sigmas of a model by a beta distribution's quantiles."""
    return ModelSigmas(model, BetaSchedule(steps, alpha, beta))


@node("SamplingPercentToSigma", category=SIGMAS, module=EXTRAS, outputs=("sigma_value",))
def sampling_percent_to_sigma(
    *,
    model: Model,
    sampling_percent: Annotated[float, Float(0.0, 1.0, step=0.0001)] = 0.0,
    return_actual_sigma: bool = False,
) -> Op[float]:
    """The noise level of a model where a part of the sampling is done."""
    return PercentSigma(model, sampling_percent, return_actual_sigma)


@node("SplitSigmas", category=SIGMAS, module=EXTRAS, outputs=("high_sigmas", "low_sigmas"))
def split_sigmas(*, sigmas: Sigmas, step: Annotated[int, Int(0, 10000)] = 0) -> tuple[Sigmas, Sigmas]:
    """Cut before a step: the first part ends with the sigma that the second begins with."""
    return sigmas[: step + 1], sigmas[step:]


@node("SplitSigmasDenoise", category=SIGMAS, module=EXTRAS, outputs=("high_sigmas", "low_sigmas"))
def split_sigmas_denoise(
    *, sigmas: Sigmas, denoise: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0
) -> tuple[Sigmas, Sigmas]:
    """Cut so that the second part is the last `denoise` of the steps."""
    kept = round(max(sigmas.shape[-1] - 1, 0) * denoise)
    # With nothing kept ComfyUI gives an empty first part and the last sigma: its slice ends at -0.
    return sigmas[:-kept] if kept else sigmas[:0], sigmas[-(kept + 1) :]


@node("FlipSigmas", category=SIGMAS, module=EXTRAS)
def flip_sigmas(*, sigmas: Sigmas) -> Sigmas:
    """Backwards, for noising; a first sigma of 0 becomes 0.0001."""
    flipped = sigmas.flip(0)
    if len(flipped) and flipped[0] == 0:
        flipped[0] = 0.0001
    return flipped


@node("SetFirstSigma", category=SIGMAS, module=EXTRAS)
def set_first_sigma(
    *, sigmas: Sigmas, sigma: Annotated[float, Float(0.0, 20000.0, step=0.001, round=False)] = 136.0
) -> Sigmas:
    """Another noise level to begin with."""
    if not len(sigmas):
        raise ValueError("SetFirstSigma: there are no sigmas. Connect a scheduler with at least one step.")
    changed = sigmas.clone()
    changed[0] = sigma
    return changed


@node("ExtendIntermediateSigmas", category=SIGMAS, module=EXTRAS)
def extend_intermediate_sigmas(
    *,
    sigmas: Sigmas,
    steps: Annotated[int, Int(1, 100)] = 2,
    start_at_sigma: Annotated[float, Float(-1.0, 20000.0, step=0.01, round=False)] = -1.0,
    end_at_sigma: Annotated[float, Float(0.0, 20000.0, step=0.01, round=False)] = 12.0,
    spacing: Annotated[str, Choice(("linear", "cosine", "sine"))],
) -> Sigmas:
    """Every step between two noise levels divided into `steps`; a negative start means: from the first."""
    start = math.inf if start_at_sigma < 0 else start_at_sigma
    share = torch.linspace(0, 1, steps + 1)[1:-1]
    if spacing == "cosine":
        share = torch.sin(share * math.pi / 2)
    elif spacing == "sine":
        share = 1 - torch.cos(share * math.pi / 2)
    parts = []
    for sigma, following in pairwise(sigmas):
        parts.append(sigma[None])
        if end_at_sigma <= sigma <= start:
            parts.append(share * (following - sigma) + sigma)
    return torch.cat([*parts, sigmas[-1:]])


@node("KarrasScheduler", category=SCHEDULERS, module=EXTRAS)
def karras_scheduler(
    *, steps: Steps = 20, sigma_max: Sigma = 14.614642, sigma_min: Sigma = 0.0291675, rho: Exponent = 7.0
) -> Sigmas:
    """Spaced as in Karras et al. (2022)."""
    from backend.sampling.sigmas import karras  # here, because it loads torch

    return karras(steps, sigma_min, sigma_max, rho)


@node("ExponentialScheduler", category=SCHEDULERS, module=EXTRAS)
def exponential_scheduler(
    *, steps: Steps = 20, sigma_max: Sigma = 14.614642, sigma_min: Sigma = 0.0291675
) -> Sigmas:
    """Evenly spaced in log sigma."""
    from backend.sampling.sigmas import exponential

    return exponential(steps, sigma_min, sigma_max)


@node("PolyexponentialScheduler", category=SCHEDULERS, module=EXTRAS)
def polyexponential_scheduler(
    *, steps: Steps = 20, sigma_max: Sigma = 14.614642, sigma_min: Sigma = 0.0291675, rho: Exponent = 1.0
) -> Sigmas:
    """A power of the way in log sigma."""
    from backend.sampling.sigmas import polyexponential

    return polyexponential(steps, sigma_min, sigma_max, rho)


@node("LaplaceScheduler", category=SCHEDULERS, module=EXTRAS)
def laplace_scheduler(
    *,
    steps: Steps = 20,
    sigma_max: Sigma = 14.614642,
    sigma_min: Sigma = 0.0291675,
    mu: Annotated[float, Float(-10.0, 10.0, step=0.1, round=False)] = 0.0,
    beta: Annotated[float, Float(0.0, 10.0, step=0.1, round=False)] = 0.5,
) -> Sigmas:
    """Spaced by a Laplace distribution of log sigma."""
    from backend.sampling.sigmas import laplace

    return laplace(steps, sigma_min, sigma_max, mu, beta)


@node("VPScheduler", category=SCHEDULERS, module=EXTRAS)
def vp_scheduler(
    *,
    steps: Steps = 20,
    beta_d: Sigma = 19.9,
    beta_min: Sigma = 0.1,
    eps_s: Annotated[float, Float(0.0, 1.0, step=0.0001, round=False)] = 0.001,
) -> Sigmas:
    """Of the continuous variance-preserving process."""
    from backend.sampling.sigmas import variance_preserving

    return variance_preserving(steps, beta_d, beta_min, eps_s)


# Noise levels found for ten steps by Align Your Steps (arXiv:2404.14507), published by its authors.
ALIGNED = {
    "SD1": "14.6146412293 6.4745760956 3.8636745985 2.6946151520 1.8841921177 1.3943805092 0.9642583904 "
    "0.6523686016 0.3977456272 0.1515232662 0.0291671582",
    "SDXL": "14.6146412293 6.3184485287 3.7681790315 2.1811480769 1.3405244945 0.8620721141 0.5550693289 "
    "0.3798540708 0.2332364134 0.1114188177 0.0291671582",
    "SVD": "700.00 54.5 15.886 7.977 4.248 1.789 0.981 0.403 0.173 0.034 0.002",
}
# The same by Optimal Steps (arXiv:2503.21774).
OPTIMAL = {
    "FLUX": "0.9968 0.9886 0.9819 0.975 0.966 0.9471 0.9158 0.8287 0.5512 0.2808 0.001",
    "Wan": "1.0 0.997 0.995 0.993 0.991 0.989 0.987 0.985 0.98 0.975 0.973 0.968 0.96 0.946 0.927 0.902 "
    "0.864 0.776 0.539 0.208 0.001",
    "Chroma": "0.992 0.99 0.988 0.985 0.982 0.978 0.973 0.968 0.961 0.953 0.943 0.931 0.917 0.9 0.881 0.858 "
    "0.832 0.802 0.769 0.731 0.69 0.646 0.599 0.55 0.501 0.451 0.402 0.355 0.311 0.27 0.232 0.199 0.169 "
    "0.143 0.12 0.101 0.084 0.07 0.058 0.048 0.001",
}


@node(
    "AlignYourStepsScheduler",
    category=SCHEDULERS,
    module="comfy_extras.nodes_align_your_steps",
)
def align_your_steps_scheduler(
    *,
    model_type: Annotated[str, one_of(*ALIGNED)],
    steps: Steps = 10,
    denoise: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0,
) -> Sigmas:
    """Noise levels optimised for a model family; other step counts are interpolated."""
    return tabled(ALIGNED[model_type], steps, denoise)


@node("OptimalStepsScheduler", category=SCHEDULERS, module="comfy_extras.nodes_optimalsteps")
def optimal_steps_scheduler(
    *,
    model_type: Annotated[str, one_of(*OPTIMAL)],
    steps: Annotated[int, Int(3, 1000)] = 20,
    denoise: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0,
) -> Sigmas:
    """Noise levels optimised for a model family; other step counts are interpolated."""
    return tabled(OPTIMAL[model_type], steps, denoise)


@node("GITSScheduler", category=SCHEDULERS, module="comfy_extras.nodes_gits")
def gits_scheduler(
    *,
    coeff: Annotated[float, Float(0.80, 1.50, step=0.05)] = 1.20,
    steps: Annotated[int, Int(2, 1000)] = 10,
    denoise: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0,
) -> Sigmas:
    """Noise levels chosen by the shape of sampling trajectories; above 20 steps they are interpolated."""
    if denoise <= 0.0:
        return torch.empty(0)
    levels = " ".join(str(level) for level in gits_levels(coeff, min(steps, 20)))
    return tabled(levels, steps, denoise)


@node("LTXVScheduler", category=SCHEDULERS, module="comfy_extras.nodes_lt")
def ltxv_scheduler(
    *,
    steps: Steps = 20,
    max_shift: Annotated[float, Float(0.0, 100.0, step=0.01)] = 2.05,
    base_shift: Annotated[float, Float(0.0, 100.0, step=0.01)] = 0.95,
    stretch: bool = True,
    terminal: Annotated[float, Float(0.0, 0.99, step=0.01)] = 0.1,
    latent: Latent | None = None,
) -> Sigmas:
    """A flow's noise levels, shifted by the size of the latent (4096 places without one)."""
    from backend.sampling.sigmas import resolution_shifted

    tokens = 4096 if latent is None else math.prod(latent.samples.shape[2:])
    return resolution_shifted(steps, tokens, (base_shift, max_shift), terminal if stretch else None)


def tabled(table: str, steps: int, denoise: float) -> Sigmas:
    """The last `denoise` of `steps` steps along a table of noise levels, log-linear between its entries."""
    if denoise <= 0.0:
        return torch.empty(0)
    levels = np.array([float(level) for level in table.split()])
    if len(levels) != steps + 1:
        places, wanted = np.linspace(0, 1, len(levels)), np.linspace(0, 1, steps + 1)
        levels = np.exp(np.interp(wanted, places, np.log(levels)))
    sigmas = torch.tensor(levels[-(round(steps * denoise) + 1) :], dtype=torch.float32)
    sigmas[-1] = 0
    return sigmas
