"""Metrics of all workers of one gunicorn, as a JSON summary and for Prometheus.

prometheus-client runs in multiprocess mode: each worker writes its counts to files of its own. They are in a directory
that gunicorn's master creates (`server.metrics_directory`). The worker that answers GET /metrics adds up the files of
all workers. Without that directory, only this process is counted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.metrics_core import Metric

from environment import metrics_directory
from observability.metrics_files import FileCollector
from observability.text_format import generate_text

log = logging.getLogger(__name__)

# Seconds: from a read by id on a nearby node to the longest deadline that a client may request.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Seconds over which queries_per_second is averaged.
_RATE_WINDOW = 60.0
# Seconds between updates of the gauges.
_INTERVAL = 1.0

_registry = CollectorRegistry()


_Mode = Literal["livesum", "livemax", "livemostrecent"]


def _gauge(name: str, text: str, mode: _Mode = "livesum", labels: Sequence[str] = ()) -> Gauge:
    return Gauge(name, text, labels, registry=_registry, multiprocess_mode=mode)


REQUESTS = Counter("fieldbook_requests", "Requests answered.", ["route", "method", "status"], registry=_registry)
REQUEST_SECONDS = Histogram(
    "fieldbook_request_duration_seconds",
    "Time from the start of a request to its response; for a stream, to its first page.",
    ["route", "method"],
    buckets=_BUCKETS,
    registry=_registry,
)
IN_FLIGHT = _gauge("fieldbook_requests_in_flight", "Requests in flight that count against the concurrency limit.")
IN_FLIGHT_LIMIT = _gauge("fieldbook_requests_in_flight_limit", "Concurrency limit, the sum over all workers.")
STREAMS_IN_FLIGHT = _gauge("fieldbook_streams_in_flight", "Streams among the requests in flight.")
STREAMS_IN_FLIGHT_LIMIT = _gauge("fieldbook_streams_in_flight_limit", "Limit of streams, the sum over all workers.")
IMPORTS_IN_FLIGHT = _gauge(
    "fieldbook_imports_in_flight", "Imports whose file is being received, or whose rows are being written."
)
QUEUED = _gauge("fieldbook_requests_queued", "Requests that wait for the concurrency limit.", labels=["kind"])
QUEUE_SECONDS = Histogram(
    "fieldbook_queue_duration_seconds",
    "Time that requests waited for the concurrency limit, without the requests that did not wait.",
    ["kind"],
    buckets=_BUCKETS,
    registry=_registry,
)
REFUSED = Counter(
    "fieldbook_requests_refused",
    "Requests rejected by the concurrency limit, by reason: queue_full, queue_timeout or deadline.",
    ["kind", "reason"],
    registry=_registry,
)
# All series exist from the start: Prometheus can't see the first increase of a new one.
for _kind in ("data", "stream", "service"):
    QUEUE_SECONDS.labels(_kind)
    for _reason in ("queue_full", "queue_timeout", "deadline"):
        REFUSED.labels(_kind, _reason)
REFUSED.labels("import", "queue_full")
RATE_LIMITED = Counter(
    "fieldbook_requests_rate_limited",
    "Requests rejected by a rate limit: requests, sign_in_account or sign_in_address.",
    ["limit"],
    registry=_registry,
)
for _limit in ("requests", "sign_in_account", "sign_in_address"):
    RATE_LIMITED.labels(_limit)
RATE_LIMITER_FAILURES = Counter(
    "fieldbook_rate_limiter_failures",
    "Attempts to count a request in Redis, or to connect to it, that failed.",
    registry=_registry,
)
WORKERS = _gauge("fieldbook_workers", "Worker processes.")
WORKERS_STARTED = Counter(
    "fieldbook_workers_started", "Worker processes that have started, including replacements.", registry=_registry
)
# These two gauges count workers. With the minimum over all workers of a gauge that is 0 or 1, the result would be wrong
# with --preload, because the master adds a 0.
WORKERS_WITHOUT_QUORUM = _gauge(
    "fieldbook_workers_without_quorum",
    "Workers that are not connected to Cassandra, or see too few replicas of a row for the default consistency level.",
)
WORKERS_WITHOUT_REDIS = _gauge(
    "fieldbook_workers_without_redis", "Workers that count requests for rate limits in memory because Redis fails."
)
WORKERS_READ_ONLY = _gauge("fieldbook_workers_read_only", "Workers that reject writes (READ_ONLY).")

# Linux only. prometheus-client has no metrics of the process in multiprocess mode.
_STATM = Path("/proc/self/statm")
MEMORY = (
    _gauge("fieldbook_memory_bytes", "Resident memory of the workers. Pages that workers share count in each of them.")
    if _STATM.exists()
    else None
)

CONNECTIONS = _gauge("fieldbook_client_connections", "Open connections of clients.")
CONNECTIONS_CLOSED_EARLY = Counter(
    "fieldbook_client_connections_closed_early",
    "Connections that waited for their client and were closed to make room for others.",
    registry=_registry,
)

QUERY_SECONDS = Histogram(
    "fieldbook_query_duration_seconds",
    "Time from sending a statement to its response or error; for a stream, for each page.",
    ["statement"],
    buckets=_BUCKETS,
    registry=_registry,
)
DRIVER_ERRORS = Counter(
    "fieldbook_driver_errors", "Exceptions that the Cassandra driver raised.", ["kind"], registry=_registry
)
DRIVER_CONNECTIONS = _gauge("fieldbook_driver_connections", "Open connections to Cassandra nodes.")
DRIVER_IN_FLIGHT = _gauge("fieldbook_driver_requests_in_flight", "Requests in flight on these connections.")
# The maximum over the workers, because a worker that has just started sees no nodes yet.
NODES_UP = _gauge("fieldbook_nodes_up", "Cassandra nodes that are up; the maximum over all workers.", "livemax")
NODES_DOWN = _gauge("fieldbook_nodes_down", "Cassandra nodes that are down; the maximum over all workers.", "livemax")
QUERIES_PER_SECOND = _gauge("fieldbook_queries_per_second", "Queries per second, averaged over the last 60 seconds.")

STREAMS_OPENED = Counter("fieldbook_streams_opened", "Streams whose body was started.", ["route"], registry=_registry)
STREAMS_ENDED = Counter(
    "fieldbook_streams_ended",
    "Streams by outcome: finished, aborted (a fault), disconnected (by the client) or too_slow (the client).",
    ["route", "outcome"],
    registry=_registry,
)

IDEMPOTENT_REPEATS = Counter(
    "fieldbook_idempotent_repeats",
    "Requests that got the stored response of an earlier request with the same Idempotency-Key.",
    registry=_registry,
)

JOBS_ENDED = Counter(
    "fieldbook_jobs_ended", "Jobs by outcome: succeeded, failed or cancelled.", ["kind", "outcome"], registry=_registry
)
JOB_ROWS = Counter("fieldbook_job_rows", "Rows that jobs have written.", ["kind"], registry=_registry)
JOB_RETRIES = Counter(
    "fieldbook_job_retries", "Attempts of jobs that failed, or whose worker ended.", ["kind"], registry=_registry
)
for _kind in ("import",):
    JOB_ROWS.labels(_kind)
    JOB_RETRIES.labels(_kind)
    for _outcome in ("succeeded", "failed", "cancelled"):
        JOBS_ENDED.labels(_kind, _outcome)

JOB_MESSAGES_FAILED = Counter(
    "fieldbook_job_messages_failed",
    "Messages to job workers that could not be sent.",
    registry=_registry,
)
# The sweep sets these three. Of several job workers, the one with the latest sweep has the present values.
JOBS_OPEN = _gauge("fieldbook_jobs_open", "Jobs that have not ended.", "livemostrecent", ["kind", "state"])
OLDEST_QUEUED = _gauge(
    "fieldbook_job_queue_age_seconds",
    "Time since the creation of the oldest job for which no worker has begun.",
    "livemostrecent",
    ["kind"],
)
LAST_SWEEP = _gauge("fieldbook_job_sweep_timestamp_seconds", "Unix time of the last sweep.", "livemostrecent")

LOG_LINES_DROPPED = Counter(
    "fieldbook_log_lines_dropped",
    "Log lines of the workers that were dropped because the reader of stderr was too slow.",
    registry=_registry,
)


class Sampler:
    """Updates the metrics of this process once a second, from registered functions."""

    def __init__(self) -> None:
        self._sources: list[tuple[Gauge, Callable[[], float]]] = [
            (WORKERS, lambda: 1),
            (QUERIES_PER_SECOND, self._queries_per_second),
        ]
        if MEMORY is not None:
            self._sources.append((MEMORY, _resident_memory))
        self._increments: list[tuple[Counter, Callable[[], float]]] = []
        # Count queries here too, because adding up the histograms of all statements takes more than a millisecond.
        self._queries = 0
        # Values of time.monotonic(), each with the number of queries until then.
        self._query_counts: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()
        self._queries_lock = threading.Lock()

    def add(self, gauge: Gauge, source: Callable[[], float]) -> None:
        """Register the function that supplies a gauge's value; it replaces an earlier one.

        :param source: called from any thread.
        """
        with self._lock:
            others = [(other, function) for other, function in self._sources if other is not gauge]
            self._sources = [*others, (gauge, source)]

    def add_increments(self, counter: Counter, source: Callable[[], float]) -> None:
        """Register the function that returns by how much a counter has grown since the last call.

        :param source: called from any thread.
        """
        with self._lock:
            self._increments.append((counter, source))

    def count_query(self) -> None:
        """Count a query for `fieldbook_queries_per_second`."""
        with self._queries_lock:
            self._queries += 1

    def sample(self) -> None:
        """Update all metrics with a registered function now."""
        with self._lock:
            for gauge, source in self._sources:
                gauge.set(source())
            for counter, source in self._increments:
                counter.inc(source())

    def start(self) -> None:
        """Update these metrics every second from now on, in a background thread.

        Another worker may answer GET /metrics, so an update at that time would not be enough.
        """
        WORKERS_STARTED.inc()
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self.sample()
            except Exception:
                log.exception("The gauges could not be updated")
            time.sleep(_INTERVAL)

    def _queries_per_second(self) -> float:
        now, total = time.monotonic(), self._queries
        self._query_counts.append((now, total))
        while now - self._query_counts[0][0] > _RATE_WINDOW:
            self._query_counts.popleft()
        then, before = self._query_counts[0]
        return (total - before) / (now - then) if now > then else 0.0


def _resident_memory() -> float:
    """The resident memory of this process in bytes: the second field of statm, in pages (proc_pid_statm(5))."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


sampler = Sampler()


# Cached, because looking up a time series by its labels costs more than counting.
@cache
def _request_series(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(route, method, status), REQUEST_SECONDS.labels(route, method)


@cache
def _query_series(statement: str) -> Histogram:
    return QUERY_SECONDS.labels(statement)


def observe_request(route: str, method: str, status: int, seconds: float) -> None:
    """Count an answered request.

    :param route: the URL rule instead of the URL, to bound the label cardinality.
    :param seconds: from the start of the request to its response.
    """
    requests, latency = _request_series(route, method, status)
    requests.inc()
    latency.observe(seconds)


def observe_query(statement: str, started: float) -> float:
    """Count a query whose response or error has just arrived.

    :param statement: name of the statement.
    :param started: when it was sent, by `time.monotonic()`.
    :returns: the duration in seconds.
    """
    seconds = time.monotonic() - started
    _query_series(statement).observe(seconds)
    sampler.count_query()
    return seconds


def collect(*, sample: bool = True) -> CollectorRegistry:
    """The metrics of all workers.

    :param sample: this process is a worker: update its metrics first.
    """
    if sample:
        sampler.sample()
    directory = metrics_directory()
    if directory is None:
        return _registry
    registry = CollectorRegistry()
    registry.register(FileCollector(directory))
    return registry


def exposition(media_type: str, *, sample: bool = True) -> tuple[str, bytes]:
    """All metrics as text, with the content type.

    :param media_type: `text/plain` for the format of Prometheus, `application/openmetrics-text` for OpenMetrics.
    :param sample: this process is a worker: update its metrics first.
    """
    generate, content_type = choose_encoder(media_type)
    # generate_text() writes no creation times. In multiprocess mode there are none.
    if generate is generate_latest and metrics_directory() is not None:
        generate = generate_text
    return content_type, generate(collect(sample=sample))


def summary() -> dict[str, Any]:
    """The most important metrics; percentiles are estimated from histogram buckets."""
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
            upper = float(sample.labels["le"])
            buckets[upper] = buckets.get(upper, 0) + sample.value
    return {f"p{share:g}": _quantile(share / 100, sorted(buckets.items())) for share in (50, 90, 95, 99)}


def _quantile(share: float, buckets: Iterable[tuple[float, float]]) -> float | None:
    """A quantile in milliseconds, interpolated as in PromQL's histogram_quantile().

    :param share: 0 to 1.
    :param buckets: upper bounds in seconds, in ascending order, each with the cumulative count.
    """
    buckets = list(buckets)
    if not buckets or not buckets[-1][1]:
        return None
    wanted = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= wanted and count > below:
            # The last bucket has no upper bound, so its lower bound is the best estimate.
            within = 0.0 if upper == float("inf") else (upper - lower) * (wanted - below) / (count - below)
            return round((lower + within) * 1000, 3)
        lower, below = upper, count
    return round(lower * 1000, 3)
