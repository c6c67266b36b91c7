"""Time, handed in: the system's in a server, a manual one in tests."""

import time
from typing import Protocol

from backend.types import Seconds


class Clock(Protocol):
    def now(self) -> Seconds:
        """Monotonic seconds."""
        ...

    def epoch_ms(self) -> int:
        """Milliseconds since 1970."""
        ...


class SystemClock:
    def now(self) -> Seconds:
        return time.monotonic()

    def epoch_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, start: Seconds = 0.0) -> None:
        self._now = start

    def now(self) -> Seconds:
        return self._now

    def epoch_ms(self) -> int:
        return int(self._now * 1000)

    def advance(self, seconds: Seconds) -> None:
        self._now += seconds
