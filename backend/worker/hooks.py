"""Hooks of text encoders: for which stretches of a run a text is encoded, and with which LoRAs."""

from collections.abc import Iterator, Mapping

from backend.references import ClipHooks, LoraUse
from backend.sampling.keyframes import stretches
from backend.worker.conditions import HOOKS


def encodings(clip: ClipHooks | None) -> Iterator[tuple[Mapping[str, object], tuple[LoraUse, ...]]]:
    """Each encoding of a text: options of what comes of it, and LoRAs that it is made with beside others."""
    if clip is None:
        yield {}, ()
        return
    hooks = clip.hooks.hooks
    options = {HOOKS: clip.hooks} if clip.to_conditions else {}
    if not clip.scheduled:
        yield options, _uses(clip, [1.0] * len(hooks))
        return
    frames = [[(frame.start, frame.strength) for frame in hook.keyframes.frames] for hook in hooks]
    for start, end, strengths in stretches(frames):
        yield (
            {**options, "clip_start_percent": start, "clip_end_percent": end},
            _uses(clip, strengths),
        )


def _uses(clip: ClipHooks, strengths: list[float]) -> tuple[LoraUse, ...]:
    pairs = zip(clip.hooks.hooks, strengths, strict=True)
    uses = (LoraUse(hook.lora, hook.clip * strength) for hook, strength in pairs)
    return tuple(use for use in uses if use.strength != 0)
