"""Samplers that packs add by name to ComfyUI's list: the server's own nodes offer and run them too."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from backend.errors import TesseraError
from backend.guiders import ForeignSampler, Sampler
from backend.node import NodeSpec
from backend.ops import Denoise, Part
from backend.registry import Registry
from backend.sampling.names import SAMPLER_NAMES

log = logging.getLogger(__name__)
Own = Mapping[str, ForeignSampler]


def offer_own_samplers(registry: Registry) -> list[str]:
    """Let the nodes that offer the server's samplers offer those that packs have added.

    Returns: their names. One that can't run is left out, with a line in the log.
    """
    module: Any = sys.modules.get("comfy.samplers")
    listed = () if module is None else dict.fromkeys([*module.KSampler.SAMPLERS, *module.SAMPLER_NAMES])
    own: dict[str, ForeignSampler] = {}
    for name in (str(name) for name in listed if name not in SAMPLER_NAMES):
        try:
            own[name] = module.sampler_object(name).reference()
        except TesseraError as problem:  # no function of that name, or one that can't travel
            log.warning("The sampler %s of a node pack can't be offered: %s", name, problem)
    if own:
        for spec in list(registry):
            if any(_offers(spec, name) for name in (i.name for i in spec.inputs)):
                registry.add(_extended(spec, own))
    return list(own)


def _offers(spec: NodeSpec, name: str) -> bool:
    found = spec.input(name)
    return found is not None and found.choice is not None and found.choice.among is SAMPLER_NAMES


def _extended(spec: NodeSpec, own: Own) -> NodeSpec:
    names = (*SAMPLER_NAMES, *own)
    inputs = tuple(
        replace(i, choice=replace(i.choice, among=names)) if i.choice and _offers(spec, i.name) else i
        for i in spec.inputs
    )
    return replace(spec, inputs=inputs, function=partial(_run, spec, own))


def _run(spec: NodeSpec, own: Own, **given: object) -> object:
    return _meant(spec.function(**given), own)


def _meant(value: object, own: Own) -> object:
    """With packs' samplers in place of their names."""
    match value:
        case Sampler(name=name) if name in own:
            return own[name]
        case Denoise(sampler=Sampler(name=name)) if name in own:
            return replace(value, sampler=own[name])
        case Part(op=Denoise() as op):
            run = _meant(op, own)
            assert isinstance(run, Denoise)
            return replace(value, op=run)
        case tuple():
            return tuple(_meant(item, own) for item in value)
    return value
