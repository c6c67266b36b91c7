from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from backend.engine.metrics import BOUNDS, DeviceCounts, Histogram, Metrics
from backend.types import ComponentId
from backend.worker.messages import Resident, Table

SECONDS = st.floats(0, 1000, allow_nan=False)


@given(st.lists(SECONDS))
def test_a_histogram_counts_every_value_once_below_its_bound(values: list[float]):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.count == len(values)
    for place, bound in enumerate(BOUNDS):
        assert sum(histogram.counts[: place + 1]) == sum(value <= bound for value in values)


def a_table(components: str = "", **counts: object) -> Table:
    return Table(tuple(Resident(ComponentId(c), c, 1) for c in components), **counts)


def test_a_device_counts_what_came_and_went_between_two_tables():
    counts = DeviceCounts()
    counts.take(a_table(), a_table("ab", forwards=2, sizes=((1, 2),)))
    counts.take(
        a_table("ab", forwards=2, sizes=((1, 2),)),
        a_table("bc", forwards=5, shared=1, sizes=((1, 3), (4, 2))),
    )
    assert (counts.loads, counts.evictions) == (3, 1)
    assert (counts.forwards, counts.shared) == (5, 1)
    assert counts.rows == Counter({1: 3, 4: 2})


@given(st.lists(st.lists(st.integers(1, 8), max_size=6), max_size=6))
def test_what_a_device_counts_does_not_hang_on_how_often_it_reports(passes: list[list[int]]):
    counts, done, told = DeviceCounts(), Counter[int](), Table(())
    for more in passes:
        done.update(more)
        table = a_table(forwards=done.total(), sizes=tuple(sorted(done.items())))
        counts.take(told, table)
        told = table
    assert counts.forwards == done.total()
    assert counts.rows == done


def test_only_finished_ops_have_a_duration():
    metrics = Metrics()
    metrics.op("step", "Denoise", "x").finished(2.0, 1.5)
    metrics.op("step", "Denoise", "x").ended("failed")
    counts = metrics.op("step", "Denoise", "x")
    assert (counts.runs.count, counts.runs.total, counts.compute) == (1, 2.0, 1.5)
    assert counts.outcomes == {"finished": 1, "failed": 1}
