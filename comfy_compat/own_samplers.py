"""Samplers and schedules that packs add by name: the server's own nodes offer and run them too."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from backend.errors import TesseraError
from backend.guiders import ForeignSampler, Sampler, Schedule
from backend.node import InputSpec, NodeSpec
from backend.ops import Denoise, ModelSigmas, Part
from backend.registry import Registry
from backend.sampling.names import SAMPLER_NAMES, SCHEDULER_NAMES
from backend.values import frozen

log = logging.getLogger(__name__)


@frozen
class Own:
    """What packs have added, by name; of schedules the code."""

    samplers: Mapping[str, ForeignSampler]
    schedules: Mapping[str, bytes]

    def extended(self, spec: InputSpec) -> InputSpec:
        """An input that offers these too, where it offers the server's; else the input itself."""
        if spec.choice is not None:
            for names, own in ((SAMPLER_NAMES, self.samplers), (SCHEDULER_NAMES, self.schedules)):
                if spec.choice.among is names and own:
                    return replace(spec, choice=replace(spec.choice, among=(*names, *own)))
        return spec


def offer_own_samplers(registry: Registry) -> list[str]:
    """Let the nodes that offer the server's samplers and schedules offer those that packs have added.

    Returns: their names. One that can't run is left out, with a line in the log.
    """
    module: Any = sys.modules.get("comfy.samplers")
    if module is None:
        return []
    samplers = (*module.KSampler.SAMPLERS, *module.SAMPLER_NAMES)
    schedules = (*module.KSampler.SCHEDULERS, *module.SCHEDULER_NAMES, *module.SCHEDULER_HANDLERS)
    own = Own(
        dict(_found("sampler", samplers, SAMPLER_NAMES, lambda n: module.sampler_object(n).reference())),
        dict(_found("schedule", schedules, SCHEDULER_NAMES, module.schedule_code)),
    )
    for spec in list(registry):
        inputs = tuple(own.extended(one) for one in spec.inputs)
        if any(new is not old for new, old in zip(inputs, spec.inputs, strict=True)):
            registry.add(replace(spec, inputs=inputs, function=partial(_run, spec, own)))
    return [*own.samplers, *own.schedules]


def _found(
    what: str, listed: Iterable[str], known: Iterable[str], made: Callable[[str], Any]
) -> Iterator[tuple[str, Any]]:
    for name in dict.fromkeys(str(name) for name in listed if name not in known):
        try:
            yield name, made(name)
        except TesseraError as problem:  # no function of that name, or one that can't travel
            log.warning("The %s %s of a node pack can't be offered: %s", what, name, problem)


def _run(spec: NodeSpec, own: Own, **given: object) -> object:
    return _meant(spec.function(**given), own)


def _meant(value: object, own: Own) -> object:
    """With what packs made in place of its names."""
    match value:
        case Sampler(name=name) if name in own.samplers:
            return own.samplers[name]
        case Schedule(scheduler=name) if name in own.schedules:
            return replace(value, code=own.schedules[name])
        case Denoise(sampler=sampler, sigmas=sigmas):
            return _with(value, own, sampler=sampler, sigmas=sigmas)
        case ModelSigmas(schedule=schedule):
            return _with(value, own, schedule=schedule)
        case Part(op=op):
            return _with(value, own, op=op)
        case tuple():
            return tuple(_meant(item, own) for item in value)
    return value


def _with(value: Any, own: Own, **parts: object) -> object:
    """The value with its parts as they are meant, itself where nothing differs."""
    meant = {name: _meant(part, own) for name, part in parts.items()}
    return value if all(meant[name] is part for name, part in parts.items()) else replace(value, **meant)
