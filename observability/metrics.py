"""What the service counts, over all workers of a gunicorn, for Prometheus and as a summary in JSON.

A worker counts into files of its own in the directory that gunicorn's master made (prometheus-client's multiprocess
mode); whichever worker is asked adds them up. Without such a directory it is this process alone that is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from settings import metrics_directory

log = logging.getLogger(__name__)

# Seconds. From a read by id on a near node to the longest deadline that a client may ask for.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Seconds over which the summary's queries_per_second is taken, and between two looks at the gauges.
_WINDOW = 60.0
_INTERVAL = 1.0

_registry = CollectorRegistry()


def _gauge(name: str, text: str, mode: Literal["livesum", "livemax"] = "livesum") -> Gauge:
    return Gauge(name, text, registry=_registry, multiprocess_mode=mode)


REQUESTS = Counter("fieldbook_requests", "Answered requests.", ["route", "method", "status"], registry=_registry)
REQUEST_SECONDS = Histogram(
    "fieldbook_request_duration_seconds",
    "From a request to its answer; of a stream, to its first page.",
    ["route", "method"],
    buckets=_BUCKETS,
    registry=_registry,
)
REFUSED = Counter("fieldbook_requests_refused", "Refused because too many were in flight.", registry=_registry)
IN_FLIGHT = _gauge("fieldbook_requests_in_flight", "Requests that take a slot now.")
IN_FLIGHT_LIMIT = _gauge("fieldbook_requests_in_flight_limit", "Slots in all.")
WORKERS = _gauge("fieldbook_workers", "Worker processes.")

QUERY_SECONDS = Histogram(
    "fieldbook_query_duration_seconds",
    "From sending a statement to its answer, also where that is an error; of a stream, each page.",
    ["statement"],
    buckets=_BUCKETS,
    registry=_registry,
)
DRIVER_ERRORS = Counter("fieldbook_driver_errors", "Exceptions of the Cassandra driver.", ["kind"], registry=_registry)
DRIVER_CONNECTIONS = _gauge("fieldbook_driver_connections", "Open connections to nodes.")
DRIVER_IN_FLIGHT = _gauge("fieldbook_driver_requests_in_flight", "Requests on the way on these connections.")
# Not the fewest: a worker that has just begun sees none yet.
NODES_UP = _gauge("fieldbook_nodes_up", "Nodes seen up, by the worker that sees the most.", "livemax")
NODES_DOWN = _gauge("fieldbook_nodes_down", "Nodes seen down, by the worker that sees the most.", "livemax")
QUERIES_PER_SECOND = _gauge("fieldbook_queries_per_second", "Over the last 60 seconds.")

STREAMS_OPENED = Counter("fieldbook_streams_opened", "Streams whose first page was had.", ["route"], registry=_registry)
STREAMS_ENDED = Counter(
    "fieldbook_streams_ended",
    "Streams by their end: finished, cut by a fault, or left by the client.",
    ["route", "outcome"],
    registry=_registry,
)

IDEMPOTENT_REPEATS = Counter(
    "fieldbook_idempotent_repeats", "Requests that got the answer of an earlier one.", registry=_registry
)


class Sampler:
    """Sets the gauges of this process from what registered functions tell."""

    def __init__(self) -> None:
        self._sources: list[tuple[Gauge, Callable[[], float]]] = [
            (WORKERS, lambda: 1),
            (QUERIES_PER_SECOND, self._queries_per_second),
        ]
        self._seen: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()

    def add(self, gauge: Gauge, source: Callable[[], float]) -> None:
        """:param source: tells the gauge's value; called from any thread."""
        with self._lock:
            self._sources = [(known, old) for known, old in self._sources if known is not gauge] + [(gauge, source)]

    def sample(self) -> None:
        """Sets all gauges now."""
        with self._lock:
            for gauge, source in self._sources:
                gauge.set(source())

    def start(self) -> None:
        """Sets all gauges every second from now on, so that they are right whichever worker is asked."""
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self.sample()
            except Exception:
                log.exception("The gauges stay as they were")
            time.sleep(_INTERVAL)

    def _queries_per_second(self) -> float:
        now = time.monotonic()
        total = sum(
            sample.value
            for metric in QUERY_SECONDS.collect()
            for sample in metric.samples
            if sample.name.endswith("_count")
        )
        self._seen.append((now, total))
        while now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        return (total - before) / (now - then) if now > then else 0.0


sampler = Sampler()


# Finding the child of a metric by its labels costs more than counting.
@cache
def _of_request(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(route, method, status), REQUEST_SECONDS.labels(route, method)


@cache
def _of_query(statement: str) -> Histogram:
    return QUERY_SECONDS.labels(statement)


def observe_request(route: str, method: str, status: int, seconds: float) -> None:
    """Counts an answered request.

    :param route: the URL rule, of which there are few, and not the URL.
    """
    requests, latency = _of_request(route, method, status)
    requests.inc()
    latency.observe(seconds)


def observe_query(statement: str, started: float) -> float:
    """Counts a query that was sent at `started` (of `time.monotonic()`) and is answered now.

    :returns: the seconds that it took.
    """
    seconds = time.monotonic() - started
    _of_query(statement).observe(seconds)
    return seconds


def collect() -> CollectorRegistry:
    """What all workers have counted."""
    sampler.sample()
    if metrics_directory() is None:
        return _registry
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def exposition(media_type: str) -> tuple[str, bytes]:
    """All of it, with its content type, in the format of Prometheus (`text/plain`) or of OpenMetrics."""
    generate, content_type = choose_encoder(media_type)
    return content_type, generate(collect())


def summary() -> dict[str, Any]:
    """The few numbers that a person wants first. Percentiles are estimated from the histogram's buckets."""
    metrics = {metric.name: metric for metric in collect().collect()}
    queries = _total(metrics, "fieldbook_query_duration_seconds", "_count")
    seconds = _total(metrics, "fieldbook_query_duration_seconds", "_sum")
    return {
        "total_queries": int(queries),
        "active_connections": int(_total(metrics, "fieldbook_driver_connections")),
        "queries_per_second": round(_total(metrics, "fieldbook_queries_per_second"), 3),
        "average_query_time_ms": round(seconds / queries * 1000, 3) if queries else 0.0,
        "errors_count": int(_total(metrics, "fieldbook_driver_errors", "_total")),
        "total_requests": int(_total(metrics, "fieldbook_requests", "_total")),
        "requests_in_flight": int(_total(metrics, "fieldbook_requests_in_flight")),
        "request_latency_ms": _percentiles(metrics.get("fieldbook_request_duration_seconds")),
        "query_latency_ms": _percentiles(metrics.get("fieldbook_query_duration_seconds")),
        "workers": int(_total(metrics, "fieldbook_workers")),
    }


def _total(metrics: dict[str, Metric], name: str, suffix: str = "") -> float:
    metric = metrics.get(name)
    samples = metric.samples if metric else []
    return float(sum(sample.value for sample in samples if sample.name == name + suffix))


def _percentiles(metric: Metric | None) -> dict[str, float | None]:
    buckets: dict[float, float] = {}
    for sample in metric.samples if metric else []:
        if sample.name.endswith("_bucket"):
            bound = float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0) + sample.value
    return {f"p{share:g}": _quantile(share / 100, sorted(buckets.items())) for share in (50, 90, 95, 99)}


def _quantile(share: float, buckets: Iterable[tuple[float, float]]) -> float | None:
    """Milliseconds; in between the bounds of a bucket, as PromQL's histogram_quantile() has it.

    :param buckets: upper bounds in seconds in order, each with the count of all up to it.
    """
    buckets = list(buckets)
    if not buckets or not buckets[-1][1]:
        return None
    wanted = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= wanted and count > below:
            # Of the last bucket, which has no end, only its beginning is known.
            within = 0.0 if upper == float("inf") else (upper - lower) * (wanted - below) / (count - below)
            return round((lower + within) * 1000, 3)
        lower, below = upper, count
    return round(lower * 1000, 3)
