"""Imports through nginx: it forwards the body while it arrives, in any framing, and up to a limit of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from tests.functional.nginx.conftest import BEHIND_NGINX
from tests.nginx import HOST, Nginx
from tests.sockets import Incomplete, RawResponse, take_response
from tests.support import service
from tests.testbed.uploads import PATH, UPLOADS

pytestmark = pytest.mark.timeout(180)

PART = bytes(range(256)) * 256
COUNT = 320


@pytest.fixture(scope="module")
def uploads(
    nginx_binary: str, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    """nginx in front of one instance that reads uploads."""
    directory = tmp_path_factory.mktemp("uploads")
    log = tmp_path_factory.mktemp("instance") / "service.log"
    with service(environment | BEHIND_NGINX, log, healthy=False, app=UPLOADS) as instance:
        nginx = Nginx(nginx_binary, directory, [instance.port])
        with nginx.run():
            yield nginx


@pytest.fixture(params=[False, True], ids=["HTTP/1.1", "HTTP/2"])
def client(uploads: Nginx, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with uploads.client(http2=request.param) as client:
        yield client


def parts() -> Iterator[bytes]:
    for _ in range(COUNT):
        yield PART


def respond(nginx: Nginx, data: bytes) -> RawResponse:
    """Send bytes, leave the connection open, and return the first response."""
    received = b""
    with nginx.connect() as connection:
        connection.sendall(data)
        while True:
            try:
                return take_response(received)[0]
            except Incomplete:
                part = connection.recv(65536)
                assert part, f"the connection ended after {received!r}"
                received += part


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_of_20_mb_reaches_the_service(client: httpx.Client, framing: str) -> None:
    headers = {"Content-Length": str(COUNT * len(PART))} if framing == "length" else {}
    response = client.post(PATH, content=parts(), headers=headers)
    expected = {"bytes": COUNT * len(PART), "sha256": sha256(PART * COUNT).hexdigest(), "problem": None}
    assert (response.status_code, response.json()) == (200, expected)


def test_response_arrives_before_the_body(uploads: Nginx) -> None:
    """With buffering, nginx would wait for the body before it asks the service."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nRefuse: 401\r\nContent-Length: 1000000\r\n\r\n"
    assert respond(uploads, head.encode() + b"abc").status == 401


def test_client_that_sends_everything_first_receives_an_early_response(uploads: Nginx) -> None:
    """Over HTTP/1.1. Over HTTP/2, httpx waits for the flow control window, and does not look for the response."""
    with uploads.client() as client:
        for _ in range(5):
            assert client.post(PATH, content=parts(), headers={"Refuse": "413"}).status_code == 413


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_receives_an_early_response(uploads: Nginx, tmp_path: Path, version: str) -> None:
    file = tmp_path / "body"
    file.write_bytes(b" " * 50_000_000)
    command = ["curl", "-ksS", version, "--max-time", "30", "-H", "Refuse: 413", "-H", "Expect:", "-w", "%{http_code}"]
    command += ["--resolve", f"{HOST}:{uploads.port}:127.0.0.1", "-o", os.devnull, "--data-binary", f"@{file}"]
    finished = subprocess.run(
        [*command, f"https://{HOST}:{uploads.port}{PATH}"], capture_output=True, text=True, check=False
    )
    assert (finished.stdout, finished.stderr) == ("413", "")


def test_limit_of_imports_is_higher_than_that_of_other_bodies(uploads: Nginx) -> None:
    """nginx refuses a longer body itself; otherwise the status is that of the service."""
    for path, length, status in (
        (PATH, 1024**3, 403),
        (PATH, 1024**3 + 1, 413),
        ("/observers", 1024**2 + 1, 413),
    ):
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nRefuse: 403\r\nContent-Length: {length}\r\n\r\n"
        assert respond(uploads, head.encode()).status == status


def test_upload_is_not_stored_by_nginx(uploads: Nginx, client: httpx.Client) -> None:
    """nginx would log a warning that it buffers the body in a file."""
    assert client.post(PATH, content=parts()).status_code == 200
    assert "buffered to a temporary file" not in Path(uploads.error_log).read_text()
