"""Host memory and disk of the simulated fleet: where a device's weights come from, and how long that takes.

The host memories of all machines count as one tier: between machines 41 GB/s are published, to a device 7.5
GiB/s.
"""

from collections import OrderedDict
from collections.abc import Iterable

from backend.schedule.simulation.catalogue import Catalogue
from backend.types import ComponentId, Seconds


class Host:
    """A cache of files by least recent use. slow: how much slower than usual the disk is."""

    def __init__(self, catalogue: Catalogue, capacity: float) -> None:
        self.catalogue, self.capacity, self.slow = catalogue, capacity, 1.0
        self.read_bytes = 0.0
        self._there: OrderedDict[ComponentId, Seconds] = OrderedDict()  # and from when on
        self._nbytes = 0.0

    def __contains__(self, component: ComponentId) -> bool:
        return all(file in self._there for file in self.catalogue.files(component))

    def fetch(self, component: ComponentId, now: Seconds) -> Seconds:
        """When all of a component's files will be in host memory; reads what is not."""
        return max([self._fetch(file, now) for file in self.catalogue.files(component)])

    def wait(self, component: ComponentId, now: Seconds) -> Seconds:
        """How long `fetch` would take."""
        there = self._there.get(component)
        if there is not None:  # most often: it is one file
            return there - now if there > now else 0.0
        return max([self._wait(file, now) for file in self.catalogue.files(component)])

    def warm(self, components: Iterable[ComponentId]) -> None:
        """As after long use: the first that fit are there."""
        for file in components:
            nbytes = self.catalogue.nbytes(file)
            if file not in self._there and self._nbytes + nbytes <= self.capacity:
                self._there[file] = 0.0
                self._there.move_to_end(file, last=False)
                self._nbytes += nbytes

    def _wait(self, file: ComponentId, now: Seconds) -> Seconds:
        there = self._there.get(file)
        return self.catalogue.part(file).disk * self.slow if there is None else max(0.0, there - now)

    def _fetch(self, file: ComponentId, now: Seconds) -> Seconds:
        there = self._there.get(file)
        if there is None:
            part = self.catalogue.part(file)
            there = self._there[file] = now + part.disk * self.slow
            self._nbytes += part.nbytes
            self.read_bytes += part.nbytes
            while self._nbytes > self.capacity and len(self._there) > 1:
                gone, _ = self._there.popitem(last=False)
                self._nbytes -= self.catalogue.nbytes(gone)
        else:
            self._there.move_to_end(file)
        return max(now, there)
