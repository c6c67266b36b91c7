"""Private copies of weights with a stack of LoRAs in them, where that is cheaper than side paths.

A copy has memory of its own; the base stays as it is, shared. It goes with the LoRAs it was made from, or
when there are too many of them: it can be made again at any time.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from backend.models.adapters import Weight
from backend.models.changes import Change, Decomposed, Delta, Scaled, changed
from backend.values import frozen

# What of a copy's making counts: each weight is read, changed and written. Measured (BENCHMARKS.md, "LoRAs").
_PASSES = 2
_MOST = 256  # stacks that are remembered; sliders make one for each strength


def pays(places: int, layers: Sequence[tuple[int, int]]) -> bool:
    """Whether a stack that so many places have run with should have a copy by now.

    A side path reads each place's input and writes its output once more, whatever its rank; a copy costs
    `_PASSES` passes over the weights. The first is a rent, the second a price: to buy once the rent has
    reached the price costs at most twice the best, whatever comes after.
    Args: places: latent pixels or tokens, of all rows of all passes so far; layers: (outputs, inputs) of each
        layer that changes.
    """
    rent = places * sum(outputs + inputs for outputs, inputs in layers)
    return rent >= _PASSES * sum(outputs * inputs for outputs, inputs in layers)


@frozen(eq=False, weakref_slot=True)
class Lora:
    """A LoRA file, bound to one target: the change of each of its layers."""

    path: str
    changes: Mapping[str, Change]

    @property
    def nbytes(self) -> int:
        parts = (part for change in self.changes.values() for part in change.tensors)
        return sum(part.nbytes for part in parts if part is not None)


@frozen
class Patch:
    """A LoRA at a strength; any number, negative too."""

    lora: Lora
    strength: float


Stack: TypeAlias = tuple[Patch, ...]  # in the order in which they are applied
_Key: TypeAlias = tuple[tuple[weakref.ref[Lora], float], ...]


@dataclass(slots=True)
class _Copy:
    """places: that have run with this stack, alone in their passes; asked: there will be many more;
    layers: (outputs, inputs) of each that changes, none where a copy of all would not fit, None as long as
    nobody asked; needed: bytes of them.
    """

    places: int = 0
    asked: bool = False
    layers: list[tuple[int, int]] | None = None
    needed: int = 0
    weights: dict[str, Weight] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(w.weight.nbytes for w in self.weights.values())


class Copies:
    """The copies of one component. own: a site's base weight; budget: bytes, for stacks not in use; fits:
    whether the device has so many bytes left, which is asked before a copy takes them.
    """

    def __init__(
        self, own: Callable[[str], Weight], budget: int, fits: Callable[[int], bool] = lambda nbytes: True
    ) -> None:
        self._own, self._budget, self._fits = own, budget, fits
        self._held: dict[_Key, _Copy] = {}  # the last is the most recently used

    @property
    def nbytes(self) -> int:
        self._forget_the_dead()
        return sum(copy.nbytes for copy in self._held.values())

    def whole(self, stack: Stack, places: int) -> bool:
        """Told of a pass of so many places that all have this stack: whether it should be merged."""
        copy = self._of(stack)
        copy.places += places
        if copy.layers is None:
            copy.layers, copy.needed = self._layers(stack)
        if not copy.layers or not (copy.asked or pays(copy.places, copy.layers)):
            return False
        return bool(copy.weights) or self._fits(copy.needed)

    def ask(self, stack: Stack) -> None:
        """Passes to come with this stack are known to be worth a copy."""
        self._of(tuple(patch for patch in stack if patch.strength != 0.0)).asked = True

    def _layers(self, stack: Stack) -> tuple[list[tuple[int, int]], int]:
        """(outputs, inputs) of each layer that changes, and their bytes; none where the budget is less."""
        layers, total = [], 0
        for site in sites_changed(stack):
            weight = self._own(site).weight  # one at a time: those in another form are made whole for it
            layers.append((len(weight), weight[0].numel()))
            total += weight.nbytes
        return (layers, total) if total <= self._budget else ([], 0)

    def weight(self, stack: Stack, site: str) -> Weight:
        """The site's weight with the stack in it."""
        copy = self._of(stack)
        if site not in copy.weights:
            copy.weights[site] = merged(self._own(site), stack, site)
        return copy.weights[site]

    def trim(self, used: Sequence[Stack]) -> None:
        """Drop the least recently used while there are too many; those in use stay."""
        keep = {_key(stack) for stack in used}
        total = self.nbytes
        for key in [key for key in self._held if key not in keep]:
            if total <= self._budget:
                return
            total -= self._held.pop(key).nbytes

    def give_up(self) -> int:
        """Drop all, and from now on make none that side paths can do without: memory is short.

        Returns: the bytes that were freed; 0 from the second time on, as what is made then is needed.
        """
        freed = self.nbytes if self._budget else 0
        if freed:
            self._held.clear()
        self._budget = 0
        return freed

    def _of(self, stack: Stack) -> _Copy:
        key = _key(stack)
        copy = self._held.pop(key, None) or _Copy()
        self._held[key] = copy
        while len(self._held) > _MOST:
            del self._held[next(iter(self._held))]
        return copy

    def _forget_the_dead(self) -> None:
        for key in [key for key in self._held if any(lora() is None for lora, _ in key)]:
            del self._held[key]


def sites_changed(stack: Stack) -> set[str]:
    return {site for patch in stack for site in patch.lora.changes}


def merged(own: Weight, stack: Stack, site: str) -> Weight:
    """A layer's weight and bias after each LoRA of the stack, in order."""
    weight = own.weight
    for patch in stack:
        if (change := patch.lora.changes.get(site)) is not None:
            weight = changed(weight, change, patch.strength)
    return Weight(weight, biased(own.bias, stack, site))


def biased(bias: Tensor | None, stack: Stack, site: str) -> Tensor | None:
    """A layer's bias after each LoRA of the stack, in order; None where there is none."""
    for patch in stack:
        change = patch.lora.changes.get(site)
        if isinstance(change, Scaled):
            bias = None if bias is None else bias * change.factor
        elif change is not None and (added := _bias(change)) is not None:
            added = added * patch.strength
            bias = added if bias is None else bias + added.to(bias)
    return bias


def _bias(change: Change) -> Tensor | None:
    match change:
        case Delta(bias=bias) | Decomposed(direction=Delta(bias=bias)):
            return bias
    return None


def _key(stack: Stack) -> _Key:
    return tuple((weakref.ref(patch.lora), patch.strength) for patch in stack)
