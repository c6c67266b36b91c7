"""The engine's counts in Prometheus' text format. Written out when asked; nothing is kept here."""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from backend.engine.metrics import BOUNDS, CacheCounts, Histogram, Metrics
from backend.engine.view import DeviceView, PoolView

__all__ = ["CONTENT_TYPE", "exposition"]
ROWS = (1, 2, 4, 8, 16, 32, 64)  # upper bounds of the buckets of batch sizes


def exposition(metrics: Metrics, view: PoolView) -> bytes:
    """The page that `GET /metrics` answers with."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(metrics, view))
    return bytes(generate_latest(registry))


class _Snapshot(Collector):
    def __init__(self, metrics: Metrics, view: PoolView) -> None:
        self._metrics, self._view = metrics, view

    def collect(self) -> Iterator[Metric]:
        yield from _jobs(self._metrics, self._view)
        yield from _ops(self._metrics, self._view)
        yield from _cache(self._metrics.cache, self._view)
        yield from _work(self._metrics)
        yield from _devices(self._view.devices)


def _jobs(metrics: Metrics, view: PoolView) -> Iterator[Metric]:
    now = GaugeMetricFamily("tessera_jobs_unfinished", "Jobs by state.", labels=["state"])
    now.add_metric(["running"], len(view.running))
    now.add_metric(["pending"], view.pending_count)
    yield now
    yield _counter("tessera_jobs", "Ended jobs by what became of them.", ("status",), metrics.jobs)
    parts = HistogramMetricFamily(
        "tessera_job_seconds",
        "Time of completed jobs, summed over their ops: queue (ready, not begun), load (of weights), "
        "compute, transfer (of values between processes); total: from submission to end.",
        labels=["part"],
    )
    for part, histogram in metrics.job_parts.items():
        parts.add_metric([part], _buckets(histogram), histogram.total)
    yield parts
    yield _counter(
        "tessera_decisions", "Decisions of the scheduler by their kind.", ("kind",), metrics.decisions
    )


def _ops(metrics: Metrics, view: PoolView) -> Iterator[Metric]:
    yield GaugeMetricFamily("tessera_ops_unfinished", "Ops of the live graph.", value=view.live_ops)
    yield GaugeMetricFamily("tessera_ops_ready", "Ops that wait for a device.", value=view.ready_ops)
    waits = HistogramMetricFamily(
        "tessera_op_wait_seconds", "From an op's being ready to its begin on a device.", labels=["kind"]
    )
    for kind, histogram in metrics.waits.items():
        waits.add_metric([kind], _buckets(histogram), histogram.total)
    yield waits
    labels = ["kind", "op", "component"]
    runs = HistogramMetricFamily(
        "tessera_op_seconds", "From an op's begin on a device to its end.", labels=labels
    )
    compute = CounterMetricFamily(
        "tessera_op_compute_seconds",
        "Compute of its own; its share of shared passes.",
        labels=labels,
    )
    ended = CounterMetricFamily("tessera_ops", "Ops that left a device.", labels=[*labels, "outcome"])
    for values, counts in metrics.ops.items():
        if counts.runs.count:
            runs.add_metric(values, _buckets(counts.runs), counts.runs.total)
            compute.add_metric(values, counts.compute)
        for outcome, count in counts.outcomes.items():
            ended.add_metric([*values, outcome], count)
    yield from (runs, compute, ended)


def _cache(cache: CacheCounts, view: PoolView) -> Iterator[Metric]:
    yield CounterMetricFamily("tessera_cache_hits", "Ops that needed no run.", value=cache.hits)
    yield CounterMetricFamily("tessera_cache_merged", "Ops that joined another job's.", value=cache.merged)
    yield CounterMetricFamily("tessera_cache_misses", "Ops that had to run.", value=cache.misses)
    yield CounterMetricFamily("tessera_cache_evictions", "Results thrown out.", value=cache.evicted)
    yield GaugeMetricFamily("tessera_cache_results", "Results kept.", value=view.results)
    yield GaugeMetricFamily("tessera_cache_bytes", "Bytes of the results kept.", value=view.result_bytes)


def _work(metrics: Metrics) -> Iterator[Metric]:
    """What devices have done."""
    counts = (
        ("tessera_component_loads", "Components loaded.", "loads"),
        ("tessera_component_evictions", "Components dropped.", "evictions"),
        ("tessera_worker_deaths", "Worker processes that ended by themselves.", "deaths"),
        ("tessera_forward_passes", "Forward passes of denoisers.", "forwards"),
        ("tessera_shared_passes", "Forward passes that served several ops.", "shared"),
    )
    for name, text, field in counts:
        values = {id: getattr(counted, field) for id, counted in metrics.devices.items()}
        yield _counter(name, text, ("device",), Counter(values))
    rows = HistogramMetricFamily("tessera_batch_rows", "Rows of a forward pass.", labels=["device"])
    for id, counted in metrics.devices.items():
        rows.add_metric([id], _row_buckets(counted.rows), sum(n * of for n, of in counted.rows.items()))
    yield rows


def _devices(devices: tuple[DeviceView, ...]) -> Iterator[Metric]:
    up = GaugeMetricFamily("tessera_device_up", "Whether the device takes work.", labels=["device"])
    running = GaugeMetricFamily("tessera_device_running_ops", "Ops on the device.", labels=["device"])
    memory = GaugeMetricFamily(
        "tessera_device_memory_bytes", "Memory of the device.", labels=["device", "state"]
    )
    held = GaugeMetricFamily(
        "tessera_component_bytes", "Components on the device.", labels=["device", "component", "id"]
    )
    for device in devices:
        up.add_metric([device.id], float(device.usable))
        running.add_metric([device.id], len(device.running))
        if (info := device.table.info or device.info) is not None:
            memory.add_metric([device.id, "total"], info.total)
            memory.add_metric([device.id, "free"], info.free)
        for resident in device.table.resident:
            held.add_metric([device.id, resident.label, resident.component], resident.nbytes)
    yield from (up, running, memory, held)


def _counter(name: str, text: str, labels: tuple[str], counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """(upper bound, how many are not above it), as Prometheus counts."""
    bounds = [*map(str, BOUNDS), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def _row_buckets(rows: Counter[int]) -> list[tuple[str, float]]:
    below = [(f"{bound}.0", float(sum(of for n, of in rows.items() if n <= bound))) for bound in ROWS]
    return [*below, ("+Inf", float(rows.total()))]
