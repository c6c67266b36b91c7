"""Sigmas: made by a model's schedule or from numbers, cut and joined."""

from typing import Annotated

from backend.node import Float, Int, node
from backend.ops import ModelSigmas, Op
from backend.references import Model, Schedule
from backend.types import Sigmas
from nodes.sampling import CUSTOM, EXTRAS, SchedulerName, Steps


@node("BasicScheduler", category=f"{CUSTOM}/schedulers", module=EXTRAS)
def basic_scheduler(
    *,
    model: Model,
    scheduler: SchedulerName,
    steps: Steps = 20,
    denoise: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0,
) -> Op[Sigmas]:
    """The sigmas of a model under a schedule; `denoise` below 1 takes the last steps of a longer one."""
    return ModelSigmas(model, Schedule(scheduler, steps, denoise))


@node("SplitSigmas", category=f"{CUSTOM}/sigmas", module=EXTRAS, outputs=("high_sigmas", "low_sigmas"))
def split_sigmas(*, sigmas: Sigmas, step: Annotated[int, Int(0, 10000)] = 0) -> tuple[Sigmas, Sigmas]:
    """Cut before a step: the first part ends with the sigma that the second begins with."""
    return sigmas[: step + 1], sigmas[step:]
