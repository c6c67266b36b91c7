"""Hooks of text encoders: for which stretches of a run a text is encoded, and with which weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

from backend.components import LoraUse, Weights, towards
from backend.references import ClipHooks, OtherModel
from backend.sampling.keyframes import stretches
from backend.values import frozen
from backend.worker.conditions import HOOKS


@frozen
class Encoding:
    """One encoding of a text. options: of what comes of it; loras: beside the encoders' own; others: models
    that the encoders are drawn towards, each at a strength.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    loras: tuple[LoraUse, ...] = ()
    others: tuple[tuple[OtherModel, float], ...] = ()

    def moved(self, weights: Weights) -> Weights:
        """An encoder's weights for it."""
        pairs = [
            (encoder, strength)
            for other, strength in self.others
            for encoder in other.encoders
            if encoder.part == weights.part
        ]
        return towards(weights, pairs)


def encodings(clip: ClipHooks | None) -> Iterator[Encoding]:
    """Each encoding of a text: one, but for hooks with keyframes that are scheduled."""
    if clip is None:
        yield Encoding()
        return
    hooks = clip.hooks.hooks
    options: dict[str, object] = {HOOKS: clip.hooks} if clip.to_conditions else {}
    if not clip.scheduled:
        yield _encoding(clip, options, [1.0] * len(hooks))
        return
    frames = [[(frame.start, frame.strength) for frame in hook.keyframes.frames] for hook in hooks]
    for start, end, strengths in stretches(frames):
        yield _encoding(clip, {**options, "clip_start_percent": start, "clip_end_percent": end}, strengths)


def _encoding(clip: ClipHooks, options: Mapping[str, object], strengths: Sequence[float]) -> Encoding:
    loras, others = list[LoraUse](), list[tuple[OtherModel, float]]()
    for hook, factor in zip(clip.hooks.hooks, strengths, strict=True):
        if (strength := hook.clip * factor) == 0:
            continue
        if isinstance(hook.lora, OtherModel):
            others.append((hook.lora, strength))
        else:
            loras.append(LoraUse(hook.lora, strength))
    return Encoding(options, tuple(loras), tuple(others))
