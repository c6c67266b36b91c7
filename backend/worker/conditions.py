"""A guider's conditions, resolved for one run: where each counts, and what the network is given for it.

Done once, before the first step, as far as the latent's size and the model's noise range allow.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from backend.components import LoraUse, Weights
from backend.errors import UnsupportedOption
from backend.models.conditioning import NO_INPUTS, Given, Inputs, rows_of
from backend.models.control_layout import HintFormat
from backend.models.family import OPTIONS as FAMILY_OPTIONS
from backend.models.family import Layout
from backend.models.lora import Patch
from backend.models.model_patch import PatchModel
from backend.references import ControlNet, ControlUse, Hooks, OtherModel, PatchNetwork, Vae
from backend.resize import resize
from backend.sampling.discretization import NoiseRange
from backend.sampling.keyframes import Frame
from backend.sampling.region import OPTIONS, Region, region_of
from backend.types import Cond
from backend.values import frozen
from backend.worker.batch import Control, ControlNetwork

CONTROL, FOR_BOTH = "control", "control_apply_to_uncond"  # ComfyUI's names of the options
CONTROL_TOKENS, CONTROL_POOLED = "cross_attn_controlnet", "pooled_output_controlnet"
HOOKS, DEFAULT = "hooks", "default"
_OWN = frozenset({CONTROL, FOR_BOTH, CONTROL_TOKENS, CONTROL_POOLED, HOOKS, DEFAULT, "prompt_type"})
HONOURED = OPTIONS | FAMILY_OPTIONS | _OWN


@frozen(eq=False)
class ActiveControl:
    """A control model at work for a time. hint [B, C, H, W], as large as its condition's region."""

    network: ControlNetwork
    hint: Tensor
    strength: float
    average: bool
    times: Region
    kind: int | None = None

    def at(self, x: Tensor, tokens: Tensor | None) -> Control:
        """For a latent x [B, C, h, w] of the region."""
        hint = rows_of(self.hint, len(x)).to(x.device)
        return Control(self.network, hint, self.strength, self.average, tokens, self.kind)


@frozen(eq=False)
class ActiveHook:
    """A LoRA for one condition, its strength that of a keyframe's 1; frames: of this run. change: a LoRA's
    weights, or a model in the place of one; patch: a LoRA, loaded.
    """

    change: Weights | OtherModel
    strength: float
    frames: tuple[Frame, ...]
    patch: Patch | None


@frozen(eq=False)
class Condition:
    """inputs: what the family makes of the condition for the network; default: it counts where the others of
    its side leave room.
    """

    tokens: Tensor
    region: Region
    inputs: Inputs = NO_INPUTS
    controls: tuple[ActiveControl, ...] = ()
    control_tokens: Tensor | None = None
    for_both: bool = False  # its ControlNets are for the negative side as well
    hooks: tuple[ActiveHook, ...] = ()
    default: bool = False


class Networks(Protocol):
    """What a run asks its device for, which makes it resident."""

    def control(self, net: ControlNet) -> ControlNetwork: ...

    def encode(self, vae: Vae, pixels: Tensor) -> Tensor:
        """Pixels [B, H, W, 3] -> a VAE's latents of them."""

    def lora(self, use: LoraUse) -> Patch:
        """A LoRA, loaded for the run's model."""

    def patch(self, net: PatchNetwork) -> PatchModel:
        """The network of one of the model's patches."""


@frozen(eq=False)
class Setting:
    """What conditions are resolved for.

    latent [B, C, *dims] in the model's units; mask: where it is sampled, like it, or None; most: the run's
    greatest sigma.
    """

    layout: Layout
    noise: NoiseRange
    latent: Tensor
    mask: Tensor | None
    networks: Networks
    most: float = inf


Sides: TypeAlias = Mapping[str, tuple[Condition, ...]]


def resolve(
    sides: Mapping[str, Sequence[Cond]], setting: Setting, joined: Collection[str] | None = None
) -> dict[str, tuple[Condition, ...]]:
    """Every side's conditions, each side with a counterpart for every area of the others.

    joined: the sides that know of each other (a patch's own does not), all by default.
    Raises: UnsupportedOption for an empty first side, or an option that can't be honoured.
    """
    found = {side: [_resolved(cond, side, setting) for cond in conds] for side, conds in sides.items()}
    first = next(iter(found))
    if not found[first]:
        raise UnsupportedOption(first, (), "Connect a conditioning with at least one entry.")
    together = [side for side in found if joined is None or side in joined]
    for side in together:
        for condition in list(found[side]):
            for others in (found[other] for other in together if other != side):
                made = counterpart(condition, others)
                others.extend(() if made is None else (made,))
    for side in together:
        if side != first:
            found[side] = with_controls(found[first], found[side])
    return {side: tuple(conditions) for side, conditions in found.items()}


def counterpart(condition: Condition, others: Sequence[Condition]) -> Condition | None:
    """For a condition with an area: its region under the condition of the other side that surrounds it.

    None where it has no area, the other side has that area already, or nothing there surrounds it. Areas are
    compared as they were asked for, as in ComfyUI: one that reaches over the latent's end is not within one
    that ends there.
    """
    box = condition.region.asked
    if box is None:
        return None
    nearest: Condition | None = None
    for other in others:
        size = other.region.asked
        if size is None:
            nearest = nearest or other
        elif size.holds(box) and (
            nearest is None or nearest.region.asked is None or nearest.region.asked.volume > size.volume
        ):
            nearest = other
    if nearest is None or nearest.region.asked == box:
        return None
    return replace(
        condition, tokens=nearest.tokens, inputs=nearest.inputs, control_tokens=nearest.control_tokens
    )


def with_controls(first: Sequence[Condition], others: Sequence[Condition]) -> list[Condition]:
    """The other side with the first one's ControlNets that are for both, unless it has any of its own."""
    shared = [c.controls for c in first if c.region.box is None and c.controls and c.for_both]
    whole = [i for i, c in enumerate(others) if c.region.box is None]
    changed = list(others)
    if not whole or any(others[i].controls for i in whole):
        return changed
    for number, controls in enumerate(shared):
        at = whole[number % len(whole)]
        changed[at] = replace(others[at], controls=controls)
    return changed


def _resolved(cond: Cond, side: str, setting: Setting) -> Condition:
    for name in sorted(set(cond.options) - HONOURED):
        raise UnsupportedOption(f"conditioning option {name}", cond.options[name], "Leave its node out.")
    uses = cond.options.get(CONTROL, ())
    assert isinstance(uses, tuple)
    tokens = cond.options.get(CONTROL_TOKENS)
    region = region_of(cond.options, setting.latent.shape[2:], setting.noise)
    inputs = setting.layout.conditioning(Given(cond, side, setting.latent, setting.mask))
    return Condition(
        cond.tokens if inputs.tokens is None else inputs.tokens,
        region,
        inputs,
        tuple(_active(use, region, setting) for use in uses),
        tokens if isinstance(tokens, Tensor) else None,
        bool(cond.options.get(FOR_BOTH)),
        _hooks(cond.options.get(HOOKS), setting),
        DEFAULT in cond.options,
    )


def _hooks(hooks: object, setting: Setting) -> tuple[ActiveHook, ...]:
    """Those that change the model. A keyframe from before the run's first sigma has to stay for no step."""
    if not isinstance(hooks, Hooks):
        return ()
    found = []
    for hook in hooks.hooks:
        if hook.model == 0:
            continue
        begins = [setting.noise.percent_to_sigma(frame.start) for frame in hook.keyframes.frames]
        frames = tuple(
            Frame(sigma, frame.strength, 0 if sigma > setting.most else frame.steps)
            for sigma, frame in zip(begins, hook.keyframes.frames, strict=True)
        )
        patch = None
        if not isinstance(hook.lora, OtherModel):
            patch = setting.networks.lora(LoraUse(hook.lora, hook.model))
        found.append(ActiveHook(hook.lora, hook.model, frames, patch))
    return tuple(found)


def remaining(x: Tensor, others: Sequence[Condition]) -> Region | None:
    """Where the others of a side leave room, for its default conditions; None where they leave none."""
    room = torch.ones(len(x), *x.shape[2:], device=x.device)
    for other in others:
        region = other.region
        weight = region.weight(x)[:, 0]
        (room if region.box is None else region.box.crop(room)).sub_(weight)
    room = room.relu()
    return Region(mask=room) if bool(room.any()) else None


def _active(use: ControlUse, region: Region, setting: Setting) -> ActiveControl:
    network = setting.networks.control(use.net)
    percents = {"start_percent": use.start, "end_percent": use.end}
    dims = setting.latent.shape[2:] if region.box is None else region.box.size
    times = region_of(percents, setting.latent.shape[2:], setting.noise)
    hint = _hint(use, network.hint, (dims[-2], dims[-1]), setting)
    return ActiveControl(network, hint, use.strength, use.net.average, times, use.net.kind)


def _hint(use: ControlUse, format: HintFormat, dims: tuple[int, int], setting: Setting) -> Tensor:
    """The picture as a control model takes it, for a part of the latent of these dims."""
    kept = None if use.mask is None else 1.0 - use.mask.reshape(-1, 1, *use.mask.shape[-2:])
    image = use.image
    if format.masked and kept is not None:
        over = resize(kept, image.shape[2], image.shape[1], "bilinear", "center").round()
        image = image * over.movedim(1, -1)
    if format.latent is None:
        hint = format.fitted(image, dims)
    else:
        hint = _encoded(use, format, image, dims, setting)
    if not format.masked:
        return hint
    kept = torch.ones(1, 1, 1, 1) if kept is None else kept
    beside = resize(kept, hint.shape[-1], hint.shape[-2], "nearest-exact", "center")
    if hint.ndim == 5:
        beside = beside.unsqueeze(2).expand(-1, -1, hint.shape[2], -1, -1)
    return torch.cat([hint, rows_of(beside, len(hint)).to(hint)], dim=1)


def _encoded(
    use: ControlUse, format: HintFormat, image: Tensor, dims: tuple[int, int], setting: Setting
) -> Tensor:
    """The picture's latent in the control model's units."""
    if use.vae is None:
        remedy = "Connect the model's VAE to the node that applies it (Apply ControlNet with a vae input)."
        raise UnsupportedOption("control_net", "a ControlNet that takes an encoded picture", remedy)
    assert format.latent is not None
    pixels = replace(format, pixels=format.pixels * format.latent.downscale).fitted(image, dims)
    latent = setting.networks.encode(use.vae, pixels.movedim(1, -1))
    return format.latent.to_model(latent)
