"""Service received per user, as virtual time.

After start-time fair queueing (Goyal, Vin & Cheng, SIGCOMM 1996): an op starts at its user's tag, which then
grows by the op's cost; the user with the smallest tag goes next. A user who comes (back) begins where the
user of the op that started last stood, so idleness saves nothing up and nobody pays for what was free. Unlike
there, many ops run at once: where a user stands counts what they received, not what was charged ahead.
"""

from dataclasses import dataclass, field

from backend.types import Seconds

_FORGET = 10_000  # idle users remembered at most


@dataclass(slots=True)
class Shares:
    """virtual: the most that a user had received when an op of theirs started. All in device seconds."""

    virtual: Seconds = 0.0
    _tags: dict[str, Seconds] = field(default_factory=dict)
    _unserved: dict[str, Seconds] = field(default_factory=dict)

    def tag(self, user: str) -> Seconds:
        return self._tags.get(user, self.virtual)

    def served(self, user: str) -> Seconds:
        """The tag without what was charged for work that is still to be done."""
        return self.tag(user) - self._unserved.get(user, 0.0)

    def enter(self, user: str) -> Seconds:
        """The user has work again. Returns: their tag."""
        tag = self._tags[user] = max(self._tags.get(user, 0.0), self.virtual)
        return tag

    def start(self, user: str, cost: Seconds) -> None:
        """An op starts: its cost is charged ahead."""
        self.virtual = max(self.virtual, self.served(user))
        self._tags[user] = self.tag(user) + cost
        self._unserved[user] = self._unserved.get(user, 0.0) + cost

    def advance(self, user: str, seconds: Seconds) -> None:
        """That much of what was charged has been done."""
        self._unserved[user] = self._unserved.get(user, 0.0) - seconds

    def settle(self, user: str, unserved: Seconds, correction: Seconds) -> None:
        """An op left its device. unserved: charged and not done; correction: what it took beyond that."""
        self.advance(user, unserved)
        self._tags[user] = self.tag(user) + correction

    def leave(self, user: str) -> None:
        """The user has nothing left to do. Only a debt is remembered."""
        if abs(self._unserved.get(user, 0.0)) < 1e-9:
            self._unserved.pop(user, None)
        if self.tag(user) <= self.virtual:
            self._tags.pop(user, None)
        elif len(self._tags) > _FORGET:
            self._tags.pop(next(iter(self._tags)))
