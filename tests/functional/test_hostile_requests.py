"""10,000 hostile requests over all routes, from a fixed seed.

A failure names the seed and the number of the request, and has its bytes, which `tests.sockets.exchange` sends again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from random import Random

import pytest

from dev.bench.processes import memory
from tests.functional.hostile_requests import Generator, Request, routes_of
from tests.functional.problems import PROBLEM_FIELDS, raw_problem
from tests.sockets import MAX_BODY_BYTES, RawClient, RawResponse
from tests.support import Service, in_flight, wait_for
from tests.testbed.app import create_app

SEED = 14
THREADS = 4
# Bytes that a worker may grow by. A worker has about 100 MB.
MAX_GROWTH = 100 * 1024**2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("numbers", "variables"),
    [
        pytest.param(range(7000), {}, id="direct"),
        pytest.param(
            range(7000, 10000), {"TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": "localhost,127.0.0.1"}, id="behind a proxy"
        ),
    ],
)
def test_hostile_requests_cause_no_500_and_no_redirect(
    start: Callable[..., Service], keyspace: str, numbers: range, variables: dict[str, str]
) -> None:
    """They also cause no crash and no malformed response. Afterward the service works, and other rows are unchanged.

    The responses to requests that break a rule of the document are errors.
    """
    limits = {"MAX_BODY_BYTES": str(MAX_BODY_BYTES), "CLIENT_IDLE_TIMEOUT": "1"}
    token = {"OPERATOR_TOKEN": "the token of the operators"}
    running = start({"CASSANDRA_KEYSPACE": keyspace, "WEB_CONCURRENCY": "2"} | limits | token | variables)
    document = running.client.get("/openapi.json").json()
    routes = routes_of(create_app(), document)
    rows: list[str] = []
    generator = Generator(routes, document, rows, SEED)
    random = Random(SEED)
    creating = [route for route in routes if route.creates_a_row]

    def create_rows() -> list[str]:
        responses = [
            running.client.post(route.path, json=generator.value(route.body or {}, random)) for route in creating
        ]
        assert {response.status_code for response in responses} == {201}
        return [response.headers["Location"] for response in responses]

    def read(paths: list[str]) -> list[object]:
        return [running.client.get(path).raise_for_status().json() for path in paths]

    for _ in range(20):
        rows += create_rows()
    untouched = create_rows()
    before = read(untouched)
    workers = running.workers()
    before_memory = {pid: memory([pid], "VmRSS") for pid in workers}

    failures: list[str] = []
    threads = [
        threading.Thread(target=send_all, args=(running.port, generator, numbers[first::THREADS], failures))
        for first in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures, f"{len(failures)} failures, of which the first are\n\n" + "\n\n".join(failures[:20])
    assert running.workers() == workers
    assert all(memory([pid], "VmRSS") - before_memory[pid] < MAX_GROWTH for pid in workers)
    assert running.live()
    assert running.healthy()
    wait_for(lambda: in_flight(running) == 0, description="no request in flight")
    assert read(untouched) == before
    read(create_rows())
    log = running.log_text()
    assert "Traceback" not in log
    assert "500:" not in log


def send_all(port: int, generator: Generator, numbers: range, failures: list[str]) -> None:
    """Send the requests with these numbers, and collect the failures."""
    connections = Connections(port)
    for number in numbers:
        data = b"(not created)"
        try:
            request = generator.create(number)
            data = request.data
            check(request, connections.send(request))
        except Exception as error:
            failures.append(f"seed {SEED}, number {number}: {type(error).__name__} {error}\n{data!r}")
    connections.close()


class Connections:
    """The connections of one thread: one that it keeps, and one for each request that may end its connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._kept: RawClient | None = None

    def send(self, request: Request) -> list[RawResponse]:
        """Send a request. Return its response, or all responses of its connection if it has its own."""
        method = request.method.decode("latin-1")
        if request.alone:
            with RawClient(self._port) as client:
                client.send(request.data)
                client.half_close()
                return [response for response in client.read_to_end([method]) if response.status >= 200]
        client = self._kept = self._kept or RawClient(self._port)
        try:
            client.send(request.data)
            response = client.read_response(method)
            # 100 (Continue) comes before the response.
            while response.status < 200:
                response = client.read_response(method)
        except BaseException:
            self.close()
            raise
        if response.closes:
            self.close()
        return [response]

    def close(self) -> None:
        if self._kept is not None:
            self._kept.socket.close()
        self._kept = None


def check(request: Request, responses: list[RawResponse]) -> None:
    """Check the responses to a request."""
    for response in responses:
        status = response.status
        assert status == 304 or not 300 <= status < 400, f"a redirect: {status} {response.headers}"
        assert status < 500 or status == 501 or (status in (503, 504) and request.may_be_unavailable), status
        assert "x-injected" not in response.headers
        assert b"root:x:0" not in response.body
        for name in ("location", "link"):
            # A path of this service; `<` begins a Link.
            url = response.headers.get(name, "/").lstrip("<")
            assert url.startswith("/"), f"{name}: {url}"
            assert not url.startswith(("//", "/\\")), f"{name}: {url}"
        if status == 400 and response.headers["content-type"] == "application/json":
            # The errors of the routes for tokens have the form of RFC 6749, 5.2.
            assert request.route.path in ("/auth/token", "/auth/revoke")
            assert json.loads(response.body).keys() == {"error", "error_description"}
        elif status >= 400:
            assert response.headers["content-type"] == "application/problem+json", response.headers
            if request.method != b"HEAD":
                problem = raw_problem(response)
                assert problem.keys() - {"errors"} == PROBLEM_FIELDS, problem
    if request.alone:
        # The end of the connection can come before the end of the request, which then gets no response.
        responses = responses[:1]
    elif not responses[0].closes:
        # It is the response to this request. A request that the server can't parse gets a new id.
        assert request.request_id in (None, responses[0].headers["x-request-id"])
    for response in responses:
        assert response.status >= 400 or not request.must_fail, f"{response.status}, although {request.must_fail}"
