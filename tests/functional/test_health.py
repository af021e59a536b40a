"""The health routes while Cassandra hangs: they respond, and few threads wait. And whether there is a quorum."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cassandra.cluster import Session

from tests.support import FEW_THREADS, Service, TcpProxy, get, in_flight, metric, wait_for


def test_health_responds_while_cassandra_hangs_at_the_limit(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """The probes respond while all requests that the limit allows wait for a hanging Cassandra."""
    running = start(
        {
            "WEB_CONCURRENCY": "1",
            "MAX_REQUESTS_IN_FLIGHT": "3",
            "MAX_REQUESTS_QUEUED": "0",
            "CASSANDRA_PORT": str(proxy.port),
        }
    )
    assert get(running, "/find/Quercus/robur").status_code == 200
    proxy.pause()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(get, running, "/find/Quercus/robur", **{"X-Request-Timeout": "25"}) for _ in range(3)]
        wait_for(lambda: in_flight(running) == 3, description="three requests in flight")
        assert get(running, "/health/live").status_code == 200
        assert get(running, "/find/Quercus/robur").status_code == 503
        assert get(running, "/health").status_code == 503
        assert in_flight(running) == 3
        proxy.resume()
        assert {request.result().status_code for request in waiting} <= {200, 504}


@pytest.fixture
def proxied(start: Callable[..., Service], proxy: TcpProxy) -> Service:
    """A service with 18 threads and with Cassandra behind the proxy."""
    return start(FEW_THREADS | {"CASSANDRA_PORT": str(proxy.port)})


def test_many_health_requests_do_not_exhaust_worker_threads(proxied: Service, proxy: TcpProxy) -> None:
    """While Cassandra hangs, 60 requests for /health wait for one check; /health/live responds meanwhile.

    Few of them wait for its result, which is 503. The others get the last result at once: 200 until the check fails.
    """
    proxy.pause()
    with ThreadPoolExecutor(60) as pool:
        requests = [pool.submit(get, proxied, "/health") for _ in range(60)]
        assert get(proxied, "/health/live").status_code == 200
        assert {request.result().status_code for request in requests} == {200, 503}
    assert get(proxied, "/health").status_code == 503


def test_concurrent_health_requests_share_a_check(proxied: Service, proxy: TcpProxy) -> None:
    """Three requests for /health send one query to Cassandra, and each gets its result."""
    checks = 'fieldbook_query_duration_seconds_count{statement="select_release_version"}'
    before = metric(proxied, checks)
    proxy.pause()
    with ThreadPoolExecutor(3) as pool:
        requests = [pool.submit(get, proxied, "/health") for _ in range(3)]
        assert [request.result().status_code for request in requests] == [503] * 3
    assert metric(proxied, checks) == before + 1


def test_short_deadline_does_not_end_the_check_of_others(proxied: Service, proxy: TcpProxy) -> None:
    """A client that asks for a short deadline gets 504; the check goes on for the others."""
    proxy.pause()
    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(get, proxied, "/health", **{"X-Request-Timeout": "0.8"})
        wait_for(lambda: metric(proxied, "fieldbook_driver_requests_in_flight") > 0, description="the check's query")
        other = pool.submit(get, proxied, "/health")
        assert short.result().status_code == 504
        proxy.resume()
        assert other.result().status_code == 200


def test_health_reports_a_missing_quorum(start: Callable[..., Service], session: Session, keyspace: str) -> None:
    """While the keyspace has two replicas on one node, no local quorum exists: readiness is 200, `quorum` is false.

    The worker notices a change of the replication by itself.
    """
    alter = f"ALTER KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', '%s': %d}}"
    (center,) = {host.datacenter for host in session.cluster.metadata.all_hosts()}
    session.execute(alter % (center, 2), timeout=60)
    running = start({"CASSANDRA_KEYSPACE": keyspace, "WEB_CONCURRENCY": "1"})
    health = get(running, "/health")
    assert (health.status_code, health.json()["status"], health.json()["quorum"]) == (200, "healthy", False)
    assert get(running, "/find/Quercus").status_code == 503
    assert metric(running, "fieldbook_workers_without_quorum") == 1
    session.execute(alter % (center, 1), timeout=60)
    wait_for(lambda: get(running, "/health").json()["quorum"], description="the quorum")
    assert get(running, "/find/Quercus").status_code == 200
    assert metric(running, "fieldbook_workers_without_quorum") == 0
    session.execute(f"DROP KEYSPACE {keyspace}", timeout=60)
    wait_for(lambda: not get(running, "/health").json()["quorum"], description="the loss of the keyspace")
