"""The queue of the concurrency limit: order, timeouts, the share of streams, and the limit of each route."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from werkzeug.exceptions import GatewayTimeout, HTTPException, ServiceUnavailable

from routes.health import MAX_WAITING
from settings import RESERVED_THREADS, Settings
from tests.support import wait_for
from tests.testbed import app
from web.concurrency_limit import SERVICE_IN_FLIGHT, SERVICE_QUEUED, Limit
from web.route_options import RequestKind, options_of

# Seconds. No test waits for it: a request that waits is granted its place long before.
LONG = 10.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def queue(pool: ThreadPoolExecutor, limit: Limit, kind: RequestKind, deadline: float | None = None) -> Future[None]:
    """Acquire the limit in a thread. Return when the request is in the queue."""
    before = limit.queued(kind)
    request = pool.submit(limit.acquire, kind, deadline)
    wait_for(lambda: limit.queued(kind) > before, description=f"a queued {kind} request")
    return request


def test_requests_are_granted_in_the_order_of_arrival(pool: ThreadPoolExecutor) -> None:
    """Each release grants the place to one request, which is the first in the queue."""
    limit = Limit(1, queue_size=8, queue_timeout=LONG)
    limit.acquire("data", None)
    waiting = [queue(pool, limit, "data") for _ in range(5)]
    for number, request in enumerate(waiting):
        limit.release("data")
        request.result(timeout=LONG)
        assert limit.queued("data") == len(waiting) - number - 1
        assert not any(other.done() for other in waiting[number + 1 :])
    limit.release("data")
    assert limit.in_flight == 0


def test_new_request_does_not_overtake_a_queued_request(pool: ThreadPoolExecutor) -> None:
    """release() hands the place over, so that it is not free for a moment."""
    limit = Limit(1, queue_size=8, queue_timeout=LONG)
    limit.acquire("data", None)
    waiting = queue(pool, limit, "data")
    limit.release("data")
    with pytest.raises(GatewayTimeout):
        limit.acquire("data", deadline=time.monotonic())
    waiting.result(timeout=LONG)
    assert limit.in_flight == 1


def test_place_granted_at_the_moment_of_the_timeout_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose wait ends with a timeout uses the place that it was granted since."""
    limit = Limit(1, queue_size=1, queue_timeout=LONG)
    limit.acquire("data", None)

    def time_out_before_the_release(event: threading.Event, timeout: float | None = None) -> bool:
        limit.release("data")
        return False

    monkeypatch.setattr(threading.Event, "wait", time_out_before_the_release)
    limit.acquire("data", None)
    assert (limit.in_flight, limit.queued("data")) == (1, 0)
    limit.release("data")
    assert limit.in_flight == 0


def test_request_is_rejected_after_the_queue_timeout() -> None:
    limit = Limit(1, queue_size=1, queue_timeout=0.05)
    limit.acquire("data", None)
    with pytest.raises(ServiceUnavailable) as rejected:
        limit.acquire("data", time.monotonic() + LONG)
    assert rejected.value.retry_after == 1
    assert (limit.in_flight, limit.queued("data")) == (1, 0)


def test_request_is_rejected_at_once_if_the_queue_is_full(pool: ThreadPoolExecutor) -> None:
    limit = Limit(1, queue_size=1, queue_timeout=LONG)
    limit.acquire("data", None)
    waiting = queue(pool, limit, "data")
    with pytest.raises(ServiceUnavailable) as rejected:
        limit.acquire("data", None)
    assert rejected.value.retry_after == 1
    limit.release("data")
    waiting.result(timeout=LONG)


def test_deadline_in_the_queue_is_a_gateway_timeout() -> None:
    limit = Limit(1, queue_size=1, queue_timeout=LONG)
    limit.acquire("data", None)
    for seconds in (0.05, -1.0):
        with pytest.raises(GatewayTimeout):
            limit.acquire("data", time.monotonic() + seconds)
    assert (limit.in_flight, limit.queued("data")) == (1, 0)


def test_streams_over_their_limit_do_not_delay_other_requests(pool: ThreadPoolExecutor) -> None:
    """Two of three places are for streams; the third one stays for other requests."""
    limit = Limit(3, queue_size=8, queue_timeout=LONG, streams=2)
    for _ in range(2):
        limit.acquire("stream", None)
    streams = [queue(pool, limit, "stream") for _ in range(2)]
    limit.acquire("data", None)
    other = queue(pool, limit, "data")
    limit.release("data")
    other.result(timeout=LONG)
    assert limit.queued("stream") == 2
    for stream in streams:
        limit.release("stream")
        stream.result(timeout=LONG)
    assert (limit.in_flight, limit.streams_in_flight) == (3, 2)


def test_streams_and_other_requests_are_granted_in_the_order_of_arrival(pool: ThreadPoolExecutor) -> None:
    """A stream below the limit of streams keeps its place in the queue."""
    limit = Limit(2, queue_size=8, queue_timeout=LONG, streams=1)
    for _ in range(2):
        limit.acquire("data", None)
    kinds: tuple[RequestKind, ...] = ("stream", "data")
    stream, other = (queue(pool, limit, kind) for kind in kinds)
    limit.release("data")
    stream.result(timeout=LONG)
    assert not other.done()
    limit.release("stream")
    other.result(timeout=LONG)


def test_streams_do_not_fill_the_queue(pool: ThreadPoolExecutor) -> None:
    """Streams take at most three of four places in the queue."""
    limit = Limit(2, queue_size=4, queue_timeout=LONG, streams=1)
    limit.acquire("stream", None)
    limit.acquire("data", None)
    streams = [queue(pool, limit, "stream") for _ in range(3)]
    with pytest.raises(ServiceUnavailable):
        limit.acquire("stream", None)
    other = queue(pool, limit, "data")
    limit.release("data")
    other.result(timeout=LONG)
    for stream in streams:
        limit.release("stream")
        stream.result(timeout=LONG)


def test_no_place_is_lost_when_timeouts_and_releases_coincide(pool: ThreadPoolExecutor) -> None:
    """After many requests that are granted or time out at random, no request is in flight or in the queue."""
    limit = Limit(3, queue_size=12, queue_timeout=0.001, streams=2)
    maximum: list[tuple[int, int]] = []

    def send(seed: int) -> None:
        choice = random.Random(seed)
        for _ in range(200):
            kind: RequestKind = choice.choice(("data", "stream"))
            try:
                limit.acquire(kind, time.monotonic() + choice.random() / 500)
            except HTTPException:
                continue
            maximum.append((limit.in_flight, limit.streams_in_flight))
            time.sleep(choice.random() / 1000)
            limit.release(kind)

    for request in [pool.submit(send, seed) for seed in range(16)]:
        request.result(timeout=LONG)
    assert all(in_flight <= 3 and streams <= 2 for in_flight, streams in maximum)
    assert (limit.in_flight, limit.streams_in_flight, limit.queued("data"), limit.queued("stream")) == (0, 0, 0, 0)


def test_every_route_but_the_health_routes_has_a_limit() -> None:
    """Static files count, too. RouteOptions decides, so that a generated resource needs no code for it."""
    application = app.create_app(Settings.model_validate({"secret_key": "the secret of the unit tests"}))
    kinds = {
        rule.rule: options_of(application.view_functions[rule.endpoint]).kind
        for rule in application.url_map.iter_rules()
    }
    assert {rule for rule, kind in kinds.items() if kind is None} == {"/health", "/health/live"}
    service = {rule for rule, kind in kinds.items() if kind == "service"}
    assert service >= {"/", "/docs", "/docs/<filename>", "/metrics", "/openapi.json", "/shutdown"}
    assert {rule for rule, kind in kinds.items() if kind == "stream"} >= {"/observers/stream", "/find/<genus>"}
    assert (kinds["/observers"], kinds["/find/<genus>/<species>"]) == ("data", "data")


def test_reserved_threads_exceed_the_limits_of_service_routes() -> None:
    """When all of these requests wait, a thread is left for /health/live and for rejections."""
    assert SERVICE_IN_FLIGHT + SERVICE_QUEUED + MAX_WAITING < RESERVED_THREADS
    settings = Settings.model_validate(
        {"max_requests_in_flight": 10, "max_requests_queued": 20, "max_imports_in_flight": 3}
    )
    assert (settings.worker_threads, settings.stream_limit) == (33 + RESERVED_THREADS, 5)


def test_openapi_document_names_the_rejection_of_every_limited_route() -> None:
    application = app.create_app(Settings.model_validate({"secret_key": "the secret of the unit tests"}))
    paths = application.test_client().get("/openapi.json").get_json()["paths"]
    for path in ("/metrics", "/docs", "/observers"):
        assert {"503", "504"} <= paths[path]["get"]["responses"].keys(), path
    assert "503" not in paths["/health/live"]["get"]["responses"]
