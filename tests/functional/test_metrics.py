"""Metrics: sums over all workers, formats, labels, and counts of requests, streams and errors."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.support import LARGE, OBSERVER, Service, TcpProxy, raw_request, wait_for

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(running: Service) -> Samples:
    """Return the value of each sample in /metrics, by name and labels."""
    text = running.client.get("/metrics", headers={"Accept": "text/plain"}).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def value(running: Service, name: str, **labels: str) -> float:
    """Return the sum of all samples with this name and these labels."""
    return sum(
        number
        for (found_name, found_labels), number in samples(running).items()
        if found_name == name and labels.items() <= dict(found_labels).items()
    )


def get_on_new_connections(running: Service, count: int, path: str) -> None:
    """Send each request on a new connection, so that every worker gets some."""

    def get(_: int) -> None:
        assert httpx.get(f"{running.client.base_url}{path}", timeout=30).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(get, range(count)))


def test_metrics_are_summed_over_all_workers(start: Callable[..., Service]) -> None:
    """Requests and queries of both workers add up exactly, in both formats."""
    running = start({"WEB_CONCURRENCY": "2"})
    # A worker that connects sends a query.
    wait_for(lambda: running.log_text().count("Connected to Cassandra") == 2, description="two connected workers")
    before = running.client.get("/metrics").json()
    get_on_new_connections(running, 60, "/find/Quercus/robur")
    wait_for(lambda: running.log_text().count("GET /find/Quercus/robur 200") == 60, description="60 log lines")
    after = running.client.get("/metrics").json()
    assert after["total_queries"] - before["total_queries"] == 60
    labels = {"route": "/find/<genus>/<species>", "method": "GET", "status": "200"}
    assert value(running, "fieldbook_requests_total", **labels) == 60
    assert value(running, "fieldbook_query_duration_seconds_count", statement="select_find") == 60
    assert after["workers"] == value(running, "fieldbook_workers") == 2
    wait_for(lambda: running.client.get("/metrics").json()["active_connections"] == 2, description="two connections")
    assert value(running, "fieldbook_nodes_up") == 1
    assert value(running, "fieldbook_requests_in_flight_limit") == 96


def test_json_summary_has_consistent_values(live: Service) -> None:
    """The JSON summary has query counts, error counts and latencies, with consistent values."""
    for _ in range(20):
        live.client.get("/find/Quercus/robur")
    summary = live.client.get("/metrics").json()
    assert summary["total_queries"] >= 20
    assert summary["average_query_time_ms"] > 0
    assert summary["errors_count"] >= 0
    for latencies in (summary["request_latency_ms"], summary["query_latency_ms"]):
        assert 0 < latencies["p50"] <= latencies["p90"] <= latencies["p95"] <= latencies["p99"]


def test_queries_per_second_is_averaged_since_the_start(start: Callable[..., Service]) -> None:
    """The rate is the number of queries divided by the time since the start."""
    began = time.monotonic()
    running = start({"WEB_CONCURRENCY": "1"})
    started = time.monotonic()
    for _ in range(100):
        running.client.get("/find/Quercus/robur")
    at_least = 100 / (time.monotonic() - began)
    rate = running.client.get("/metrics").json()["queries_per_second"]
    # The gauges may be updated between the start and the first query.
    assert at_least * 0.8 <= rate <= 110 / (time.monotonic() - started) * 2


def test_accept_header_selects_the_format(live: Service) -> None:
    """The default is JSON; Accept selects a Prometheus format, which its parser can read."""
    assert live.client.get("/metrics").headers["Content-Type"] == "application/json"
    text = live.client.get("/metrics", headers={"Accept": "text/plain"})
    assert text.headers["Content-Type"].startswith("text/plain; version=")
    names = {family.name for family in parse(text.text)}
    prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.2"
    openmetrics = live.client.get("/metrics", headers={"Accept": prometheus})
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(openmetrics.text)} <= names
    assert live.client.get("/metrics", headers={"Accept": "image/png"}).status_code == 406


def test_label_cardinality_is_bounded(live: Service) -> None:
    """Requests with unknown paths and methods create no time series of their own."""
    for number in range(5):
        live.client.request(f"M{number}", f"/nowhere/{number}")
        live.client.get(f"/find/Genus{number}/x")
    routes = {dict(labels).get("route", "") for _, labels in samples(live)}
    methods = {dict(labels).get("method", "GET") for _, labels in samples(live)}
    assert not [route for route in routes if re.search(r"nowhere|Genus", route)]
    assert methods <= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}


@pytest.mark.slow
def test_killed_worker_counts_in_counters_but_not_in_gauges(start: Callable[..., Service]) -> None:
    """The requests of a killed worker stay counted; its open connections do not."""
    running = start({"WEB_CONCURRENCY": "2"})
    get_on_new_connections(running, 40, "/find/Quercus/robur")
    killed = running.workers()[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(set(running.workers()) - {killed}) == 2, description="a new worker")
    running.client.close()
    running.client = httpx.Client(base_url=running.client.base_url, timeout=30)
    # Wait until both live workers have set their gauges: values of the killed worker would make the sums too high.
    wait_for(lambda: running.log_text().count("Connected to Cassandra") == 3, description="the new worker's connection")
    wait_for(lambda: value(running, "fieldbook_driver_connections") >= 2, description="the new worker's gauges")
    assert value(running, "fieldbook_workers") == 2
    assert value(running, "fieldbook_driver_connections") == 2
    assert value(running, "fieldbook_requests_total", route="/find/<genus>/<species>") == 40


@pytest.mark.slow
def test_files_of_ended_workers_are_merged(start: Callable[..., Service], tmp_path: Path) -> None:
    """Reloads and killed workers leave the number of files bounded and the counters exact, for each scrape."""
    running = start({"WEB_CONCURRENCY": "2", "TMPDIR": str(tmp_path)})
    (directory,) = tmp_path.glob("fieldbook-metrics-*")
    get_on_new_connections(running, 40, "/find/Quercus/robur")
    files = len(list(directory.glob("*.db")))
    labels = {"route": "/find/<genus>/<species>", "method": "GET", "status": "200"}
    scraped = set()
    stopped = threading.Event()

    def scrape() -> None:
        while not stopped.is_set():
            with suppress(httpx.TransportError):
                text = httpx.get(
                    f"{running.client.base_url}/metrics", headers={"Accept": "text/plain"}, timeout=30
                ).text
                families = {family.name: family for family in parse(text)}
                for sample in families["fieldbook_requests"].samples:
                    if sample.labels == labels:
                        scraped.add(sample.value)

    with ThreadPoolExecutor(1) as pool:
        scraping = pool.submit(scrape)
        try:
            for _ in range(5):
                old = set(running.workers())
                running.process.send_signal(signal.SIGHUP)
                wait_for(lambda: not old & set(running.workers()), description="new workers")  # noqa: B023
                killed = running.workers()[0]
                os.kill(killed, signal.SIGKILL)
                wait_for(lambda: len(set(running.workers()) - {killed}) == 2, description="a new worker")  # noqa: B023
        finally:
            stopped.set()
        scraping.result()
    assert scraped == {40}
    running.client.close()
    running.client = httpx.Client(base_url=running.client.base_url, timeout=30)
    wait_for(lambda: value(running, "fieldbook_workers") == 2, description="the gauges of the new workers")
    # The files of two workers, and one of all ended workers for each of the two types.
    assert len(list(directory.glob("*.db"))) <= files + 2
    assert value(running, "fieldbook_query_duration_seconds_count", statement="select_find") == 40
    get_on_new_connections(running, 10, "/find/Quercus/robur")
    assert value(running, "fieldbook_requests_total", **labels) == 50


@pytest.mark.slow
def test_streams_are_counted_by_outcome(start: Callable[..., Service], proxy: TcpProxy, large_keyspace: str) -> None:
    """Each stream is counted when it opens, and by outcome when it ends."""
    running = start({"CASSANDRA_KEYSPACE": large_keyspace, "CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1"})
    path = f"/observers/stream?limit={LARGE}"

    def ended(outcome: str) -> float:
        return value(running, "fieldbook_streams_ended_total", route="/observers/stream", outcome=outcome)

    assert len(running.client.get(path).json()) == LARGE
    assert ended("finished") == 1
    with raw_request(running.port, "1.1", path) as connection:
        connection.recv(1000)
    wait_for(lambda: ended("disconnected") == 1, description="the count of the disconnected stream")
    errors = running.client.get("/metrics").json()["errors_count"]
    with pytest.raises(httpx.RemoteProtocolError), running.client.stream("GET", path) as response:
        for number, _ in enumerate(response.iter_raw()):
            if number == 0:
                proxy.disconnect()
    wait_for(lambda: ended("aborted") == 1, description="the count of the aborted stream")
    assert value(running, "fieldbook_streams_opened_total", route="/observers/stream") == 3
    assert running.client.get("/metrics").json()["errors_count"] > errors
    assert value(running, "fieldbook_driver_errors_total") > errors


def test_errors_are_counted_by_kind(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """The label `kind` is the class name of the driver's exception."""
    running = start({"CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1"})
    assert running.client.get("/find/Quercus/robur").status_code == 200
    proxy.pause(1.0)
    late = running.client.get("/find/Quercus/robur", headers={"X-Request-Timeout": "0.3"})
    assert late.status_code == 504
    assert value(running, "fieldbook_driver_errors_total", kind="OperationTimedOut") == 1


def test_in_flight_gauge_counts_waiting_requests(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """The gauge counts requests that wait for Cassandra, and returns to 0."""
    running = start({"CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1"})
    assert running.client.post("/observers", json=OBSERVER).status_code == 201
    proxy.pause()
    with ThreadPoolExecutor(5) as pool:
        url = f"{running.client.base_url}/observers"
        waiting = [pool.submit(httpx.post, url, json=OBSERVER, timeout=30) for _ in range(5)]
        wait_for(lambda: value(running, "fieldbook_requests_in_flight") == 5, description="five requests in flight")
        proxy.resume()
        assert [request.result().status_code for request in waiting] == [201] * 5
    wait_for(lambda: value(running, "fieldbook_requests_in_flight") == 0, description="no requests in flight")


@pytest.mark.slow
def test_metrics_directory_is_removed_when_the_master_ends(start: Callable[..., Service], tmp_path: Path) -> None:
    """The master creates its own directory, keeps it after SIGHUP, and removes it when it ends."""
    running = start({"TMPDIR": str(tmp_path), "WEB_CONCURRENCY": "2"})
    (directory,) = tmp_path.glob("fieldbook-metrics-*")
    get_on_new_connections(running, 10, "/find/Quercus/robur")
    old = set(running.workers())
    running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: not old & set(running.workers()), description="new workers")
    assert list(tmp_path.glob("fieldbook-metrics-*")) == [directory]
    running.client.close()
    running.client = httpx.Client(base_url=running.client.base_url, timeout=30)
    assert value(running, "fieldbook_requests_total", route="/find/<genus>/<species>") == 10
    running.process.terminate()
    assert running.process.wait(timeout=40) == 0
    assert not directory.exists()
