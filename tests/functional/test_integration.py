"""`python -m tests.integration` against running services, and against URLs that are no service."""

from __future__ import annotations

import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from dev.local_cassandra.node import free_port
from tests.integration.__main__ import parser
from tests.integration.client import Answer, Target, pause, send_limited
from tests.integration.document import Document
from tests.integration.smoke import Smoke
from tests.support import PROJECT, Service, unmeasured_environment, wait_for


def run(
    url: str, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Run a command. It must not print a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration", "--app-url", url, *arguments],
        cwd=PROJECT,
        env=unmeasured_environment() | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def result_of(done: subprocess.CompletedProcess[str], status: int = 0) -> dict[str, Any]:
    """The result that a command with `--json` printed. The exit status must be this one."""
    assert done.returncode == status, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def base_url(running: Service) -> str:
    return f"http://127.0.0.1:{running.port}"


def is_called(operation: str) -> bool:
    """Whether `smoke` calls an operation: it sends no files and creates no accounts, which HTTP can't delete."""
    return not re.search("/(auth/|accounts|jobs/)", operation) and not operation.endswith("/import")


def rows_with(running: Service, text: str) -> list[str]:
    """The lines of the stream of observers that contain a text."""
    stream = running.client.get("/observers/stream?limit=1000000", headers={"Accept": "application/x-ndjson"})
    return [line for line in stream.text.splitlines() if text in line]


@pytest.mark.slow
def test_smoke_calls_each_operation_and_leaves_no_row(live: Service) -> None:
    results = result_of(run(base_url(live), "smoke", "--json"))["operations"]
    document = Document(live.client.get("/openapi.json").json())
    assert {each["operation"] for each in results} == set(map(str, document.operations))
    skipped = [each["operation"] for each in results if each["result"] != "ok" and is_called(each["operation"])]
    assert skipped == ["POST /shutdown"]
    media_types = {each["media_type"] for each in results if each["operation"] == "GET /observers/stream"}
    assert media_types == {"application/json", "application/x-ndjson", "text/csv"}
    assert rows_with(live, "smoke") == []


@pytest.mark.slow
def test_smoke_with_and_without_a_token(start: Callable[..., Service]) -> None:
    """In production nearly every operation requires a token. Without one they return 401 and are skipped."""
    token = secrets.token_urlsafe(32)
    running = start({"APP_ENV": "production", "DIAGNOSTICS": "1", "OPERATOR_TOKEN": token})
    result = result_of(run(base_url(running), "smoke", "--json"))
    details = {each["operation"]: (each["result"], each["detail"]) for each in result["operations"]}
    for operation in ("GET /slow_query", "POST /observers", "GET /observers"):
        assert details[operation] == ("skipped", "needs a token")
    assert details["GET /health"] == ("ok", "")
    assert result["without_token"]["rejected"] == result["without_token"]["operations"] > 20
    done = run(base_url(running), "smoke", "--include-shutdown", "--json", environment={"FIELDBOOK_TOKEN": token})
    results = {each["operation"]: each["result"] for each in result_of(done)["operations"]}
    assert {name for name, result in results.items() if result != "ok" and is_called(name)} == set()
    assert running.process.wait(timeout=40) == 0


def test_commands_need_a_token_that_the_service_accepts(start: Callable[..., Service]) -> None:
    """One sentence, before the first write."""
    token = secrets.token_urlsafe(32)
    url = base_url(start({"AUTH": "all", "OPERATOR_TOKEN": token}))
    for name, *arguments in (("concurrency",), ("soak", "--minutes", "60"), ("sample_data", "--rows", "finds=1")):
        done = run(url, name, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "requires a token: set FIELDBOOK_TOKEN" in done.stderr
        rejected = run(url, name, *arguments, environment={"FIELDBOOK_TOKEN": "another"})
        assert (rejected.returncode, rejected.stderr.count("\n")) == (2, 1)
        assert "rejects the token" in rejected.stderr
    command = ["sample_data", "--rows", "finds=3", "--json"]
    # --token overrides the variable.
    written = result_of(run(url, *command, "--token", token, environment={"FIELDBOOK_TOKEN": "another"}))
    assert written["resources"][0]["written"] == 3


def test_an_operation_that_needs_no_token_is_found(live: Service) -> None:
    """The document says that operations require a token, but the service has AUTH=off."""
    content = live.client.get("/openapi.json").json()
    operations = content["paths"]["/observers"]
    operations["get"]["security"] = operations["post"]["security"] = [{"account": ["read"]}, {"operator": []}]
    target = Target(base_url(live), None, Document(content))
    result = Smoke(target, False, lambda: None).without_token()
    assert "GET /observers without a token returned 200, not 401 with WWW-Authenticate" in result["problems"]
    assert "POST /observers without a token returned 415, not 401 with WWW-Authenticate" in result["problems"]


class LimitedServer:
    """A server that answers the first requests with 429, and later ones with 200."""

    def __init__(self, limited: int, retry_after: str) -> None:
        self.requests = 0
        self.limited, self.retry_after = limited, retry_after

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.requests <= self.limited:
            return httpx.Response(429, headers={"Retry-After": self.retry_after}, stream=httpx.ByteStream(b""))
        return httpx.Response(200, stream=httpx.ByteStream(b""))


def test_a_rate_limit_is_waited_for() -> None:
    """A 429 is repeated after its Retry-After. If it stays, the message says what to do."""
    for limited, status in ((0, 200), (1, 200), (2, 429)):
        server = LimitedServer(limited, "0.01")
        with httpx.Client(transport=httpx.MockTransport(server), base_url="http://localhost") as http:
            answer = send_limited(http, "GET", "/observers")
        assert (answer.status, server.requests) == (status, min(limited, 1) + 1)
        assert ("RATE_LIMIT" in answer.outcome) == (status == 429)


@pytest.mark.parametrize(("retry_after", "least", "most"), [("30", 30, 33), ("86400", 61, 68), ("soon", 1, 1.1)])
def test_pause_after_a_429_is_bounded(retry_after: str, least: float, most: float) -> None:
    answer = Answer(httpx.Response(429, headers={"Retry-After": retry_after}), "", 0)
    assert least <= pause(answer) <= most


def test_differences_from_the_document_are_found(live: Service) -> None:
    document = Document(live.client.get("/openapi.json").json())
    (live_route,) = [each for each in document.operations if str(each) == "GET /health/live"]
    (stream,) = [each for each in document.operations if str(each) == "GET /observers/stream"]
    headers = {"X-Request-ID": "a", "Server-Timing": "app;dur=1"}

    def problems(operation: Any, content: str, status: int = 200, **more: str) -> list[str]:
        response = httpx.Response(
            status,
            headers=headers | {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in more.items()},
            content=content,
            request=httpx.Request("GET", f"http://localhost{operation.path}"),
        )
        response.elapsed = timedelta(seconds=1)
        return document.problems(operation, response)

    assert problems(live_route, '{"status": "alive"}') == []
    assert "required" in problems(live_route, "{}")[0]
    assert "status code" in problems(live_route, "{}", status=299)[0]
    assert "Content-Type" in problems(live_route, "{}", Content_Type="text/html")[0]
    assert "line 1" in problems(stream, '{"id": 1}\n', Content_Type="application/x-ndjson")[0]
    assert "CSV header" in problems(stream, "id,name\r\n", Content_Type="text/csv")[0]
    del headers["X-Request-ID"]
    assert problems(live_route, '{"status": "alive"}') == ["the header X-Request-ID is missing"]


@pytest.mark.slow
def test_concurrent_writes_are_neither_lost_nor_doubled(live: Service) -> None:
    result = result_of(run(base_url(live), "concurrency", "--clients", "10", "--rows", "10", "--json"))
    assert result["workers"] == 2
    checks = {(each["resource"], each["check"].partition(" (")[0]) for each in result["checks"]}
    assert ("observers", "updates with If-Match") in checks
    assert ("finds", "rows in lists, each once") in checks
    assert rows_with(live, "load") == []


def test_sample_data_is_written_once(live: Service) -> None:
    """A repeated command writes only the rows that are missing."""
    seed = str(secrets.randbelow(10**9))
    tag = f" s{seed}-"
    command = ["sample_data", "--json", "--seed", seed, "--rows", "finds=5", "--rows"]
    first = result_of(run(base_url(live), *command, "observers=130"))
    assert [each["written"] for each in first["resources"]] == [5, 130]
    # A row that is missing, as after an interruption.
    row = json.loads(rows_with(live, tag)[0])
    live.client.delete(f"/observers/{row['id']}")
    again = result_of(run(base_url(live), *command, "observers=150"))
    assert [each["present"] for each in again["resources"]] == [0, 129]
    names = [json.loads(line)["name"] for line in rows_with(live, tag)]
    assert len(names) == len(set(names)) == 150


@pytest.mark.slow
def test_soak_measures_latency_and_memory(live: Service, tmp_path: Path) -> None:
    plot = tmp_path / "soak.svg"
    result = result_of(run(base_url(live), "soak", "--minutes", "0.1", "--rate", "20", "--plot", str(plot), "--json"))
    assert result["requests"] == 120
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["memory_bytes"]["last"] > 2**24
    assert plot.read_text().startswith("<?xml")
    assert rows_with(live, "soak") == []


@contextmanager
def command(running: Service, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A running command, which is killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration", "--app-url", base_url(running), *arguments],
        cwd=PROJECT,
        env=unmeasured_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_soak_finds_lost_rows(live: Service) -> None:
    """Reads and updates of rows that the test deletes are errors."""
    with command(live, "soak", "--minutes", "0.2", "--rate", "30", "--json") as process:
        wait_for(lambda: len(rows_with(live, "soak")) >= 10, description="rows of soak")
        for line in rows_with(live, "soak"):
            live.client.delete(f"/observers/{json.loads(line)['id']}")
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    errors = json.loads(output)["errors"]
    assert errors
    assert set(errors) <= {f"{method} /observers/{{id}} returned 404" for method in ("GET", "PATCH")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("concurrency", "--clients", "4", "--rows", "10"), ("soak", "--minutes", "60", "--rate", "20")],
    ids=lambda each: each[0],
)
def test_ctrl_c_deletes_the_rows(live: Service, arguments: tuple[str, ...]) -> None:
    with command(live, *arguments) as process:
        wait_for(lambda: rows_with(live, "soak") + rows_with(live, "load"), timeout=90, description="rows")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=100)
    assert process.returncode == 130
    assert (error.count("\n"), error.partition(":")[0].rstrip(".\n")) == (1, "Interrupted")
    assert rows_with(live, "soak") + rows_with(live, "load") == []


def test_a_plot_that_can_not_be_written_is_refused_before_the_load(live: Service, tmp_path: Path) -> None:
    for name in ("plot.pdf", "missing/plot.png"):
        done = run(base_url(live), "soak", "--minutes", "60", "--plot", str(tmp_path / name))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_missing_resource_is_named(live: Service) -> None:
    done = run(base_url(live), "sample_data", "--rows", "nothing=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no resource 'nothing'. Its resources:" in done.stderr


@pytest.mark.slow
def test_a_service_without_cassandra(start: Callable[..., Service]) -> None:
    """`smoke` shows what still works. The other commands do not begin."""
    url = base_url(start({"CASSANDRA_PORT": str(free_port())}, healthy=False))
    done = run(url, "concurrency")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "not ready: GET /health returned 503" in done.stderr
    results = {each["operation"]: each for each in result_of(run(url, "smoke", "--json"), 1)["operations"]}
    assert (results["GET /health"]["status"], results["GET /health"]["result"]) == (503, "failed")
    assert results["GET /health/live"]["result"] == "ok"


RESPONSES = {
    "closes": b"",
    "garbage": b"\x00\x01\r\n",
    "html": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>",
    "redirect": b"HTTP/1.1 301 Moved\r\nLocation: https://example.org/\r\nContent-Length: 0\r\n\r\n",
    "json": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.fixture(params=[*RESPONSES, "silent"])
def another_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that sends one of RESPONSES to each request and closes the connection, or never answers."""
    response = RESPONSES.get(request.param)
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            if response is not None:
                connection.recv(65536)
                connection.sendall(response)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for connection in connections:
        connection.close()


def test_another_server_gets_one_sentence(another_server: str) -> None:
    done = run(another_server, "smoke", "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert another_server in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("concurrency", "--clients", "-1"),
        ("concurrency", "--clients", "9" * 400),
        ("concurrency", "--clients", "1001"),
        ("sample_data", "--rows", "observers=-1"),
        ("sample_data", "--rows", "observers"),
        ("soak", "--minutes", "nan"),
        ("soak",),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(["--app-url", "http://127.0.0.1:1", *arguments])
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_password_in_the_url_is_refused_and_not_printed() -> None:
    done = run("http://ada:secret@127.0.0.1:1", "smoke", "--token", "secret")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "secret" not in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1", "http://127.0.0.1:1"])
def test_a_wrong_url_gets_one_sentence(url: str) -> None:
    done = run(url, "smoke")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
