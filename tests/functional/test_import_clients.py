"""Clients that misbehave during an import: malformed, slow, aborted and too many uploads."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cassandra.cluster import Session

from tests.sockets import exchange
from tests.support import Service, service, wait_for
from tests.testbed.database import count_chunks

CSV = {"Content-Type": "text/csv"}


@pytest.fixture(scope="module")
def slow(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one worker that receives one import at a time, with short limits."""
    variables = {
        "WEB_CONCURRENCY": "1",
        "MAX_IMPORTS_IN_FLIGHT": "1",
        "MAX_IMPORT_BYTES": "300000",
        "CLIENT_IDLE_TIMEOUT": "1",
        "MIN_TRANSFER_RATE": "1000",
        "TRANSFER_RATE_WINDOW": "2",
    }
    with service(environment | variables, tmp_path_factory.mktemp("slow") / "log") as running:
        yield running


def head(*headers: str) -> bytes:
    return "\r\n".join(
        ["POST /find/import HTTP/1.1", "Host: x", "Content-Type: text/csv", "Connection: close", *headers, "", ""]
    ).encode()


GOOD = b"genus,species\nA,b\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (head("Content-Length: 18") + GOOD, 200),
        (head("Content-Length: 19") + GOOD, 408),
        (head("Transfer-Encoding: chunked") + b"12\r\n" + GOOD + b"\r\n0\r\n\r\n", 200),
        (head("Transfer-Encoding: chunked") + b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n", 200),
        (head("Transfer-Encoding: chunked") + b"12\r\n" + GOOD + b"\r\n", 408),
        (head("Transfer-Encoding: chunked") + b"zz\r\n" + GOOD, 400),
        (head("Transfer-Encoding: chunked") + b"4\r\n" + GOOD, 400),
        (head("Content-Length: 400000") + b"x" * 400_000, 413),
        (head("Content-Length: 0"), 200),
        (head(), 200),
        (head("Content-Length: 18", "X-Request-Timeout: 0.000001") + GOOD, 504),
    ],
)
def test_bodies_are_read_while_they_arrive(slow: Service, request_bytes: bytes, status: int) -> None:
    (response,) = exchange(slow.port, request_bytes)
    assert response.status == status, response.body


def test_client_that_waits_for_100_continue_gets_the_error_first(slow: Service) -> None:
    with socket.create_connection(("127.0.0.1", slow.port), timeout=10) as client:
        client.sendall(head("Content-Length: 18", "Expect: 100-continue").replace(b"text/csv", b"text/html"))
        assert b" 415 " in client.recv(65536).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", slow.port), timeout=10) as client:
        client.sendall(head("Content-Length: 18", "Expect: 100-continue"))
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(GOOD)
        assert b" 200 " in client.recv(65536).split(b"\r\n")[0]


def test_client_that_sends_too_slowly_is_rejected(slow: Service) -> None:
    with socket.create_connection(("127.0.0.1", slow.port), timeout=20) as client:
        client.sendall(head("Content-Length: 100000"))
        client.settimeout(0.2)
        for _ in range(60):
            try:
                response = client.recv(65536)
                break
            except TimeoutError:
                client.sendall(b"x")
        assert b" 408 " in response.split(b"\r\n")[0]
        assert b"MIN_TRANSFER_RATE" in response


def test_more_imports_than_the_limit_are_rejected(slow: Service) -> None:
    with socket.create_connection(("127.0.0.1", slow.port), timeout=20) as client:
        client.sendall(head("Content-Length: 18") + GOOD[:5])
        wait_for(
            lambda: slow.client.post("/find/import", content=GOOD, headers=CSV).status_code == 503,
            timeout=5,
            description="a rejection",
        )
        rejected = slow.client.post("/find/import", content=GOOD, headers=CSV)
        assert rejected.status_code in (200, 503)
        assert slow.client.get("/find/A").status_code == 200
    wait_for(
        lambda: slow.client.post("/find/import", content=GOOD, headers=CSV).status_code == 200,
        description="the end of the first import",
    )


def test_disconnected_client_leaves_no_chunks(slow: Service, session: Session) -> None:
    before = count_chunks(session)
    with socket.create_connection(("127.0.0.1", slow.port), timeout=20) as client:
        client.sendall(head("Content-Length: 290000") + b"genus,species\n" + b"A,bcdefgh\n" * 27_000)
        wait_for(lambda: count_chunks(session) > before, description="a stored chunk")
    slow.wait_for_log("400")
    wait_for(lambda: count_chunks(session) == before, description="the deletion of the chunks")


def test_client_receives_an_early_rejection_of_a_large_body(slow: Service, tmp_path: Path) -> None:
    response = slow.client.post("/find/import", content=bytes(20_000_000), headers=CSV)
    assert response.status_code == 413
    assert response.headers["Connection"] == "close"
