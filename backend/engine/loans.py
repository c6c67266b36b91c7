"""Passes on what devices compute for each other (`worker/lending.py`); answers for helpers that are gone."""

from collections.abc import Mapping

from backend.engine.fleet import Worker
from backend.types import DeviceId
from backend.values import frozen
from backend.worker.exchange import remove
from backend.worker.messages import Ask, Evaluated, Segment


@frozen
class _Out:
    """A loan on its way: who computes it."""

    helper: DeviceId
    loan: Segment


class Loans:
    """workers: those that take part, by device; the engine changes it as they come and go.

    Segments are deleted by who reads them; what nobody will read is deleted here.
    """

    def __init__(self, workers: Mapping[DeviceId, Worker]) -> None:
        self._workers = workers
        self._out: dict[tuple[DeviceId, int], _Out] = {}
        self._gone: set[DeviceId] = set()  # devices whose worker is not up

    def __len__(self) -> int:
        return len(self._out)

    def up(self, device: DeviceId) -> None:
        self._gone.discard(device)

    def asked(self, lead: DeviceId, ask: Ask) -> None:
        """Send a call to its helper, or back where there is none."""
        helper = self._workers.get(ask.helper)
        if helper is None or ask.helper in self._gone:
            remove(ask.loan)
            self._workers[lead].answer(ask.number, None)
            return
        self._out[lead, ask.number] = _Out(ask.helper, ask.loan)
        helper.evaluate(ask.number, lead, ask.loan)

    def evaluated(self, report: Evaluated) -> None:
        """Bring a helper's output to who asked for it."""
        if self._out.pop((report.lead, report.number), None) is not None:
            self._workers[report.lead].answer(report.number, report.output)
        elif report.output is not None:  # the lead died meanwhile
            remove(report.output)

    def lost(self, device: DeviceId) -> None:
        """A worker is gone: what it asked for is nobody's, what it was to compute comes back."""
        self._gone.add(device)
        for (lead, number), out in list(self._out.items()):
            if lead == device:
                del self._out[lead, number]  # its helper reads the loan, and its answer is deleted above
            elif out.helper == device:
                del self._out[lead, number]
                remove(out.loan)
                self._workers[lead].answer(number, None)
