"""Rate limits over HTTP, counted in Redis or in memory, also while Redis fails."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from werkzeug.exceptions import TooManyRequests

from api import create_app
from settings import Settings
from tests.functional.auth.accounts import request_token
from tests.redis_server import RedisServer, redis_server
from tests.support import Service, access_token, bearer, get, metric, service, wait_for
from web import redis_counters
from web.rate_counters import Limit
from web.rate_limits import limit_sign_in
from web.redis_counters import RedisCounters

# Seconds that requests wait for Redis in tests of exact counts. A count in memory, after 45 ms, is a second count.
REDIS_TIMEOUT = 10.0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def limited(redis: RedisServer, start: Callable[..., Service]) -> Callable[..., Service]:
    """Start a service with a limit per day that counts in an empty Redis: `limited(30)`."""
    redis.client.flushdb()

    def start_limited(amount: int, variables: dict[str, str] | None = None) -> Service:
        counted = {"RATE_LIMIT": f"{amount} per day", "REDIS_URL": redis.url, "TEST_REDIS_TIMEOUT": str(REDIS_TIMEOUT)}
        return start(counted | (variables or {}))

    return start_limited


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process wait for Redis as long as the services of `limited` do."""
    monkeypatch.setattr(redis_counters, "_TIMEOUT", REDIS_TIMEOUT)
    monkeypatch.setattr(redis_counters, "_CONNECTION_TIMEOUT", REDIS_TIMEOUT)


@pytest.fixture(scope="module")
def unlimited(
    environment: dict[str, str], redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service of two workers with a limit that no test reaches. Redis works when a test begins."""
    variables = {"RATE_LIMIT": "10000000 per day", "REDIS_URL": redis.url}
    with service(environment | variables, tmp_path_factory.mktemp("unlimited") / "log") as running:
        yield running


def statuses(running: Service, count: int, **headers: str) -> Counter[int]:
    """Send requests on connections of their own, eight at a time, and count the responses by status."""
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: get(running, "/", **headers), range(count)))
    return Counter(response.status_code for response in responses)


def workers_without_redis(running: Service) -> float:
    return metric(running, "fieldbook_workers_without_redis")


def test_limit_holds_over_the_workers_of_two_instances(limited: Callable[..., Service]) -> None:
    first, second = (limited(30, {"WEB_CONCURRENCY": "2"}) for _ in range(2))
    assert statuses(first, 20) == {200: 20}
    assert statuses(second, 30) == {200: 10, 429: 20}
    # The counts are not in the workers.
    first.reload()
    assert statuses(first, 5) == {429: 5}
    assert metric(second, 'fieldbook_requests_rate_limited_total{limit="requests"}') == 20


def test_headers_and_problem_document(limited: Callable[..., Service]) -> None:
    running = limited(3)
    for remaining, path in ((2, "/"), (1, "/find/Quercus/robur"), (0, "/find/Quercus/unknown")):
        response = get(running, path)
        assert response.status_code == (404 if path.endswith("unknown") else 200)
        assert response.headers["RateLimit-Policy"] == '"default";q=3;w=86400'
        assert re.fullmatch(rf'"default";r={remaining};t=[1-9][0-9]*', response.headers["RateLimit"])
        assert "Retry-After" not in response.headers
    rejected = get(running, "/find/Quercus/robur")
    assert rejected.status_code == 429
    seconds = rejected.headers["Retry-After"]
    assert 0 < int(seconds) <= 86401
    assert rejected.headers["RateLimit"] == f'"default";r=0;t={seconds}'
    assert rejected.headers["RateLimit-Policy"] == '"default";q=3;w=86400'
    assert rejected.headers["Content-Type"] == "application/problem+json"
    problem = rejected.json()
    assert (problem["status"], problem["title"]) == (429, "Too Many Requests")
    assert problem["detail"] == f"Too many requests: the limit is 3 in 86400 s. Try again in {seconds} s."
    assert not [name for name in rejected.headers if name.lower().startswith("x-ratelimit")]


def test_several_limits_apply_together(limited: Callable[..., Service]) -> None:
    running = limited(0, {"RATE_LIMIT": "1000 per hour; 2 per day"})
    response = get(running, "/")
    assert response.headers["RateLimit-Policy"] == '"default-3600s";q=1000;w=3600, "default-86400s";q=2;w=86400'
    assert re.fullmatch(r'"default-3600s";r=999;t=\d+, "default-86400s";r=1;t=\d+', response.headers["RateLimit"])
    assert statuses(running, 3) == {200: 1, 429: 2}


def test_health_metrics_and_options_requests_are_exempt(limited: Callable[..., Service]) -> None:
    running = limited(1)
    assert statuses(running, 2) == {200: 1, 429: 1}
    for path in ("/health", "/health/live", "/metrics"):
        response = get(running, path)
        assert response.status_code == 200
        assert "RateLimit" not in response.headers
    assert httpx.options(f"{running.client.base_url}/find/Quercus/robur", timeout=30).status_code == 200


def test_accounts_at_one_address_have_limits_of_their_own(
    limited: Callable[..., Service], redis: RedisServer, settings: Settings
) -> None:
    running = limited(3, {"AUTH": "all"})
    path = "/find/Quercus/robur"
    for _ in ("first account", "second account"):
        headers = bearer(access_token(settings))
        assert [get(running, path, **headers).status_code for _ in range(4)] == [200, 200, 200, 429]
    # Requests without a valid token count by address, and are limited before they are rejected with 401.
    sent: list[dict[str, str]] = [{}, bearer("invalid"), {}, {}]
    assert [get(running, path, **headers).status_code for headers in sent] == [401, 401, 401, 429]
    assert len(redis.keys()) == 3


def test_clients_behind_a_proxy_are_limited_by_ipv4_address_and_ipv6_network(limited: Callable[..., Service]) -> None:
    running = limited(2, {"TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": "127.0.0.1"})

    def codes(*addresses: str) -> list[int]:
        return [get(running, "/", **{"X-Forwarded-For": address}).status_code for address in addresses]

    assert codes("192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2") == [200, 200, 429, 200]
    assert codes("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1") == [200, 200, 429, 200]


@pytest.mark.usefixtures("patient")
def test_previous_window_counts_in_redis_in_proportion(redis: RedisServer) -> None:
    """A client that has sent 100 requests yesterday has fewer for today; one of the day before has all."""
    redis.client.flushdb()
    limit = Limit("requests", "default", 200, 86_400)
    counters = RedisCounters(redis.url)
    wait_for(lambda: counters.count([(limit, "first")]), description="Redis")
    seconds, microseconds = redis.client.time()
    number, passed = divmod(seconds + microseconds / 1e6, limit.period)
    for name, age in (("yesterday", 1), ("before", 2)):
        redis.client.hset(
            f"fieldbook:requests:200/86400:{name}", mapping={"number": int(number) - age, "current": 100, "previous": 0}
        )
    yesterday = counters.count([(limit, "yesterday")])
    before = counters.count([(limit, "before")])
    assert yesterday is not None
    assert before is not None
    weighted = int(100 * (1 - passed / limit.period))
    assert yesterday.usages[0].remaining in (199 - weighted, 199 - weighted + 1)
    assert before.usages[0].remaining == 199
    assert 0 < redis.client.ttl("fieldbook:requests:200/86400:yesterday") <= 2 * 86_400


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_each_rejection_in_redis_is_by_a_limit_without_remaining_requests(redis: RedisServer) -> None:
    """Rounding in Redis and in the service does not differ, at any time within a window."""
    redis.client.flushdb()
    limit = Limit("requests", "default", 1700, 1)
    counters = RedisCounters(redis.url)
    wait_for(lambda: counters.count([(limit, "first")]), description="Redis")
    # The previous window makes a difference from the second one on.
    counts, end = [], time.monotonic() + 4
    while time.monotonic() < end:
        counts.append(counters.count([(limit, "client")]))
    rejected = [count.usages[0] for count in counts if count is not None and not count.admitted]
    assert rejected
    assert {usage.remaining for usage in rejected} == {0}
    assert {usage.reset for usage in rejected} <= {1, 2}


def test_without_redis_each_worker_admits_its_share(start: Callable[..., Service]) -> None:
    running = start({"RATE_LIMIT": "20 per day", "WEB_CONCURRENCY": "2"})
    admitted = statuses(running, 60)[200]
    # Both workers have served requests if more than the share of one was admitted.
    assert 10 <= admitted <= 20
    running.wait_for_log("Rate limits are approximate")
    assert workers_without_redis(running) == 0


def test_without_limit_responses_have_no_rate_limit_headers(live: Service) -> None:
    response = get(live, "/")
    assert response.status_code == 200
    assert not [name for name in response.headers if "ratelimit" in name.lower()]
    assert "Rate limits are approximate" not in live.log_text()


@pytest.fixture
def outage(request: pytest.FixtureRequest, redis: RedisServer) -> tuple[Callable[[], object], Callable[[], object]]:
    """Two functions, which begin and end an outage of Redis."""
    config = redis.client.config_set
    return {
        "killed": (redis.kill, redis.start),
        "paused": (redis.pause, redis.resume),
        "read-only": (lambda: redis.client.replicaof("127.0.0.1", 1), lambda: redis.client.replicaof("NO", "ONE")),
        "out of memory": (lambda: config("maxmemory", 1), lambda: config("maxmemory", 0)),
    }[request.param]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("outage", ["killed", "paused", "read-only", "out of memory"], indirect=True)
def test_requests_are_served_while_redis_fails(
    unlimited: Service, redis: RedisServer, outage: tuple[Callable[[], object], Callable[[], object]]
) -> None:
    """Under load, all requests are answered 200. Then the workers count in Redis again."""
    begin, end = outage
    responses: Counter[int] = Counter()
    stop = threading.Event()
    failed_before = unlimited.log_text().count("Redis fails")
    failures_before = metric(unlimited, "fieldbook_rate_limiter_failures_total")

    def send_requests(_: int) -> None:
        while not stop.is_set():
            # More than the limit for Redis, less than any time-out of redis-py.
            response = httpx.get(f"{unlimited.client.base_url}/", timeout=3)
            responses[response.status_code] += 1

    def more_responses() -> None:
        target = responses.total() + 50
        wait_for(lambda: responses.total() >= target, description="50 responses")

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(send_requests, number) for number in range(4)]
        try:
            more_responses()
            begin()
            wait_for(lambda: workers_without_redis(unlimited) == 2, description="two workers that count in memory")
            more_responses()
            end()
            wait_for(lambda: workers_without_redis(unlimited) == 0, description="two workers that count in Redis")
            redis.client.flushdb()
            more_responses()
            wait_for(redis.keys, description="counts in Redis")
        finally:
            stop.set()
        for client in clients:
            client.result(timeout=30)
    assert set(responses) == {200}
    assert metric(unlimited, "fieldbook_rate_limiter_failures_total") > failures_before
    log = unlimited.log_text()
    assert "Redis works again" in log
    # One line for each worker. A busy machine can add an outage, but there is not one line for each request.
    assert 2 <= log.count("Redis fails") - failed_before <= 10


@pytest.mark.parametrize("url", ["redis://:wrong@127.0.0.1:{port}/0", "redis://redis.invalid:6379/0"])
def test_service_starts_and_limits_in_memory_while_redis_refuses(
    start: Callable[..., Service], redis: RedisServer, url: str
) -> None:
    """With a wrong password, or a name that does not resolve, each worker admits its share of the limit."""
    running = start({"RATE_LIMIT": "4 per day", "WEB_CONCURRENCY": "1", "REDIS_URL": url.format(port=redis.port)})
    assert statuses(running, 10) == {200: 4, 429: 6}
    running.wait_for_log("Redis fails")
    assert "wrong" not in running.log_text().replace("wrong number", "")
    wait_for(lambda: workers_without_redis(running) == 1, description="a worker that counts in memory")


def sign_in_results(settings: Settings, attempts: list[tuple[str, str]]) -> list[str]:
    """Try to sign in concurrently, each time with an account and an address. Return what each attempt got."""
    app = create_app(settings)
    # Connect to Redis before 16 threads compete for the interpreter.
    with app.test_request_context(environ_base={"REMOTE_ADDR": "203.0.113.1"}):
        limit_sign_in("first@example.org")

    def attempt(arguments: tuple[str, str]) -> str:
        email, address = arguments
        with app.test_request_context(environ_base={"REMOTE_ADDR": address}):
            try:
                limit_sign_in(email)
            except TooManyRequests as error:
                return (error.description or "").split(":")[0] if error.retry_after else "no Retry-After"
        return "admitted"

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(attempt, attempts))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("has_redis", [True, False])
def test_attempts_to_sign_in_are_limited_by_account_and_by_address(
    settings: Settings, redis: RedisServer, has_redis: bool
) -> None:
    """50 concurrent attempts do not pass the limit, also with RATE_LIMIT=off, and Redis gets no e-mail address."""
    redis.client.flushdb()
    limited = Settings(
        **settings.model_dump()
        | {
            "sign_in_limit_account": "10 per day",
            "sign_in_limit_address": "20 per day",
            "redis_url": redis.url if has_redis else None,
            "web_concurrency": 1,
            "rate_limit": "off",
        }
    )
    one_account = [("ada@example.org", f"192.0.2.{number}") for number in range(50)]
    one_address = [(f"user{number}@example.org", "198.51.100.1") for number in range(50)]
    assert Counter(sign_in_results(limited, one_account)) == {
        "admitted": 10,
        "Too many attempts to sign in to this account": 40,
    }
    assert Counter(sign_in_results(limited, one_address)) == {
        "admitted": 20,
        "Too many attempts to sign in from your address": 30,
    }
    keys = redis.keys()
    assert bool(keys) == has_redis
    assert not [key for key in keys if "@" in key or "ada" in key]


def test_sign_in_over_http_is_limited_by_account_and_by_address(limited: Callable[..., Service]) -> None:
    """The response is the same whether or not the account exists."""
    running = limited(1000, {"SIGN_IN_LIMIT_ACCOUNT": "2 per day", "SIGN_IN_LIMIT_ADDRESS": "3 per day"})

    def sign_in(email: str) -> httpx.Response:
        return request_token(running, grant_type="password", username=email, password="a wrong password")

    assert [sign_in(email).status_code for email in ("ada@example.org", "ADA@example.org")] == [400, 400]
    rejected = sign_in("ada@example.org")
    assert (rejected.status_code, rejected.headers["Content-Type"]) == (429, "application/problem+json")
    assert int(rejected.headers["Retry-After"]) > 0
    assert '"sign-in-account";r=0;' in rejected.headers["RateLimit"]
    assert '"sign-in-account";q=2;w=86400' in rejected.headers["RateLimit-Policy"]
    assert [sign_in(f"{name}@example.org").status_code for name in ("eva", "ida")] == [400, 429]
    assert metric(running, 'fieldbook_requests_rate_limited_total{limit="sign_in_address"}') == 1
