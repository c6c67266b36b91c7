"""How strong a hook is as a run goes down the noise, by its keyframes."""

from collections.abc import Sequence
from itertools import pairwise

from backend.values import frozen


@frozen
class Frame:
    """A keyframe of a run. sigma: where it begins; steps: that it stays in force at least."""

    sigma: float
    strength: float
    steps: int


class Track:
    """Which of a run's keyframes is in force. The first is so from the start, whatever its sigma."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames
        self._at, self._used = 0, 0
        self._sigma: float | None = None

    def strength(self, sigma: float) -> float:
        """At the noise level that the run is at now; asked again at the same one, the answer stays."""
        if not self._frames:
            return 1.0
        if sigma != self._sigma:
            self._sigma = sigma
            self._move(sigma)
            self._used += 1
        return self._frames[self._at].strength

    def _move(self, sigma: float) -> None:
        if self._used < self._frames[self._at].steps:
            return
        for place in range(self._at + 1, len(self._frames)):
            if self._frames[place].sigma < sigma:
                return
            self._at, self._used = place, 0
            if self._frames[place].steps > 0:
                return


def stretches(keyframes: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float, list[float]]]:
    """The stretches of a run in which all of several hooks stay as they are.

    keyframes: of each hook, (start percent, strength) in order; none: strength 1. Keyframes of equal strength
    are one, and of those with one start the last counts.
    Returns: start and end of each stretch, and each hook's strength in it (1 where it has none there).
    """
    ranges = [_ranges(frames) for frames in keyframes]
    ends = sorted({0.0, *(end for hook in ranges for start, stop, _ in hook for end in (start, stop))})
    found = []
    for start, stop in pairwise(ends):
        strengths = [
            next((s for low, high, s in hook if low < stop and high > start), 1.0) for hook in ranges
        ]
        found.append((start, stop, strengths))
    return found


def _ranges(frames: Sequence[tuple[float, float]]) -> list[tuple[float, float, float]]:
    """(start, end, strength) of a hook."""
    if not frames:
        return [(0.0, 1.0, 1.0)]
    found = []
    current = frames[0]
    for frame in frames[1:]:
        if frame[0] > current[0] and abs(frame[1] - current[1]) > 1e-9 * max(abs(frame[1]), abs(current[1])):
            found.append((current[0], frame[0], current[1]))
            current = frame
        elif frame[0] == current[0]:
            current = frame
    if abs(current[0] - 1.0) > 1e-9:
        found.append((current[0], 1.0, current[1]))
    return found
