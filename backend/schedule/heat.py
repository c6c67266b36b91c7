"""How often components are used: what is hot is worth copies on more devices than one."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp

from backend.types import ComponentId, Seconds

_SPAN = 300.0  # seconds in which what was used counts less by a factor of e
_FORGET = 1e-3


@dataclass(slots=True)
class Heat:
    """Uses a second, as a moving average."""

    _rates: dict[ComponentId, tuple[float, Seconds]] = field(default_factory=dict)

    def use(self, components: Iterable[ComponentId], now: Seconds) -> None:
        for component in components:
            self._rates[component] = (self.of(component, now) + 1 / _SPAN, now)

    def of(self, component: ComponentId, now: Seconds) -> float:
        rate, at = self._rates.get(component, (0.0, now))
        return rate * exp(min(0.0, at - now) / _SPAN)

    def hot(self, now: Seconds) -> list[tuple[ComponentId, float]]:
        """What was used of late, and how often; the rest is forgotten."""
        found = [(component, self.of(component, now)) for component in self._rates]
        for component, rate in found:
            if rate < _FORGET / _SPAN:
                del self._rates[component]
        return found
