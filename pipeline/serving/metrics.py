"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.serving.cache import ResultCache

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_PREFIX = "catalog_labels"


class Metrics:
    """One service's metrics, in a registry of their own.

    Parameters
    ----------
    cache : ResultCache, optional
        Counts for itself; is asked when the metrics are.
    """

    def __init__(self, cache: ResultCache | None = None) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}", told, labels, registry=registry)

        def gauge(name: str, told: str, *labels: str) -> Gauge:
            return Gauge(f"{_PREFIX}_{name}", told, labels, registry=registry)

        self.requests = counter("requests", "Requests answered", "route", "method", "status")
        self.seconds = Histogram(
            f"{_PREFIX}_request_seconds", "From a request to its answer", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.errors = counter("errors", "Answers that are no result", "reason")
        self.files = counter("files", "Files labelled or enhanced", "task", "source")
        self.audio_seconds = counter("audio_seconds", "Seconds of sound that were labelled")
        self.batch_rows = Histogram(
            f"{_PREFIX}_batch_windows", "Windows of a batch", buckets=_SIZES, registry=registry
        )
        self.in_work = gauge("queue_depth", "Requests accepted and not answered")
        self.waiting = gauge("windows_waiting", "Windows that are in no batch yet")
        self.memory = gauge("memory_bytes", "Resident memory of all processes")
        self.memory_limit = gauge("memory_limit_bytes", "Above it requests are turned away")
        self.gpu_memory = gauge("gpu_memory_bytes", "Of the GPU", "state")
        self.restarts = gauge("worker_restarts", "Workers that were started anew")
        if cache is not None:
            registry.register(_OfCache(cache))

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


class _OfCache(Collector):
    """What the cache counts."""

    def __init__(self, cache: ResultCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        cache = self._cache
        found = CounterMetricFamily(
            f"{_PREFIX}_cache", "Look-ups of results, by where one was", labels=["found"]
        )
        found.add_metric(["memory"], cache.hits_memory)
        found.add_metric(["disk"], cache.hits_disk)
        found.add_metric(["nothing"], cache.misses)
        yield found
        taken = GaugeMetricFamily(
            f"{_PREFIX}_cache_bytes", "What the results take", labels=["place"]
        )
        taken.add_metric(["memory"], cache.memory_bytes)
        taken.add_metric(["disk"], cache.disk_bytes)
        yield taken
