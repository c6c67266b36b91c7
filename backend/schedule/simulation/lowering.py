"""What a simulated job consists of: the ops of its graph, or one pipeline."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from backend.schedule.simulation.catalogue import MERGE, Catalogue
from backend.schedule.simulation.fleet import Task
from backend.schedule.simulation.policies import Policy
from backend.schedule.simulation.workload import Job, decode, encodes, pass_seconds, work
from backend.types import ComponentId, OpKey, Seconds

HANDOFF = 0.003  # seconds by which an op begins later because its inputs come from another


def lower(job: Job, catalogue: Catalogue, policy: Policy) -> tuple[list[Task], list[Seconds], int]:
    """Its ops as a policy is given them, what each takes alone, and how many of them wait for nothing."""
    if policy.whole:
        return [pipeline(job, catalogue)], [job.work + MERGE * bool(job.loras)], 1
    calls = encodes(job, catalogue)
    rows = 2 if job.base.family.guided else 1
    tasks = [
        _call(job, f"encode{number}", component, rows, HANDOFF, catalogue)
        for number, (component, _) in enumerate(calls)
    ]
    costs = [seconds + HANDOFF for _, seconds in calls]
    tasks.append(_denoise(job, policy.merged))
    costs.append(job.passes * pass_seconds(job, catalogue, taxed=tasks[-1].taxed))
    vae = ComponentId(job.base.family.vae)
    tasks.append(_call(job, "decode", vae, job.images, 2 * HANDOFF, catalogue))
    costs.append(decode(job, catalogue) + 2 * HANDOFF)
    return tasks, costs, len(calls)


def _denoise(job: Job, merged: bool) -> Task:
    base, family = job.base.denoiser, job.base.family
    return Task(
        OpKey(f"{job.id}.denoise"),
        job.id,
        job.user,
        "step",
        (base, *job.adapters),
        batch=f"{base} {job.adapters}" if merged and job.adapters else base,
        rows=job.rows,
        parts=2 if family.guided else 1,
        passes=job.passes,
        nets=job.controlnets,
        taxed=bool(job.loras) and not merged,
        guided=family.guided,
        due=job.due,
    )


def _call(
    job: Job, name: str, component: ComponentId, rows: int, before: Seconds, catalogue: Catalogue
) -> Task:
    """A call of an encoder or decoder; several at once are one call of more rows. before: handing over."""

    def together(tasks: Sequence[Task]) -> Seconds:
        return catalogue.seconds(component, sum(task.rows for task in tasks)) + before

    return Task(
        OpKey(f"{job.id}.{name}"),
        job.id,
        job.user,
        "whole",
        (component,),
        batch=component,
        rows=rows,
        seconds=catalogue.seconds(component, rows) + before,
        together=together,
        due=job.due,
    )


def pipeline(job: Job, catalogue: Catalogue) -> Task:
    """A job as one piece of work, as whole-pipeline serving runs it."""
    component = catalogue.pipeline(job.base)
    merge = MERGE if job.loras else 0.0
    return Task(
        OpKey(f"{job.id}.pipeline"),
        job.id,
        job.user,
        "whole",
        (component, *job.adapters),
        batch=f"{component} {job.adapters} {job.passes}",
        rows=job.rows,
        seconds=job.work + merge,
        together=partial(_together, job, catalogue),
        due=job.due,
    )


def _together(job: Job, catalogue: Catalogue, tasks: Sequence[Task]) -> Seconds:
    """Several jobs of one pipeline as one batch of images."""
    images = sum(task.rows for task in tasks) // (2 if job.base.family.guided else 1)
    merge = MERGE if job.loras else 0.0
    return work(replace(job, images=images), catalogue) + merge
