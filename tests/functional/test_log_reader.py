"""Standard error as a pipe whose reader stops, comes back or ends."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.functional.test_metrics import value
from tests.support import Service, service, wait_for

# Its log line is nearly as long as a write that the kernel does not split (4,096 bytes).
LONG_PATH = "/nowhere/" + "x" * 3900


class Reader:
    """The read end of a named pipe. It reads nothing until `read_all()`."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._parts: list[bytes] = []

    def read_all(self) -> None:
        """Read from now on, in a thread."""
        os.set_blocking(self._descriptor, True)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while part := os.read(self._descriptor, 1 << 16):
            self._parts.append(part)

    def text(self) -> str:
        return b"".join(self._parts).decode()

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def service_with_pipe(environment: dict[str, str], reader: Reader) -> Iterator[Service]:
    with service(environment | {"WEB_CONCURRENCY": "2"}, reader.path) as running:
        yield running


def send(running: Service, count: int, path: str) -> None:
    """Send requests on connections of their own, so that each worker gets some. All are answered."""

    def get(_: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
            connection.request("GET", path)
            assert connection.getresponse().status in (200, 404)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(get, range(count)))


@pytest.mark.slow
def test_service_answers_and_stops_although_nobody_reads_its_log(environment: dict[str, str], tmp_path: Path) -> None:
    """The pipe holds about 550 lines. All requests are answered, and SIGTERM ends master and workers."""
    with service_with_pipe(environment, Reader(tmp_path / "pipe")) as running:
        send(running, 2000, "/find/Quercus/robur")
        send(running, 1500, LONG_PATH)
        assert running.client.get("/health/live").status_code == 200
        wait_for(lambda: value(running, "fieldbook_log_lines_dropped_total") > 0, description="dropped lines")
        workers = running.workers()
        # The master logs too.
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(set(running.workers()) - set(workers)) == 2, description="new workers")
        wait_for(running.live, description="the new workers")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=30) == 0


@pytest.mark.slow
def test_dropped_lines_are_counted_and_logged_when_the_reader_comes_back(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Each line is written or counted as dropped; a line says how many were dropped."""
    reader = Reader(tmp_path / "pipe")
    with service_with_pipe(environment, reader) as running:
        sent = 2000
        send(running, sent, LONG_PATH)
        wait_for(lambda: value(running, "fieldbook_log_lines_dropped_total") > 0, description="dropped lines")
        reader.read_all()

        def dropped() -> int:
            return sum(int(number) for number in re.findall(r"(\d+) log lines were dropped", reader.text()))

        wait_for(
            lambda: dropped() == value(running, "fieldbook_log_lines_dropped_total"),
            description="the log lines about dropped lines",
        )
        # Every written line is complete. Lines of other requests, such as those of /metrics, may be dropped too.
        text = reader.text()
        written = len(re.findall(rf"Z INFO fieldbook.requests \[\S+\] GET {LONG_PATH} 404 ", text))
        assert text.count("xxx 404 ") == written
        assert sent - dropped() <= written < sent
        assert all(re.match(r"20\d\d-\S+Z [A-Z]+ ", line) for line in text.splitlines()[:-1])
        before = dropped()
        send(running, 100, "/find/Quercus/robur")
        wait_for(lambda: reader.text().count("GET /find/Quercus/robur 200") == 100, description="new log lines")
        assert dropped() == before


def test_service_runs_on_when_the_reader_of_its_log_has_ended(environment: dict[str, str], tmp_path: Path) -> None:
    """A pipe without a reader raises an error at each write."""
    reader = Reader(tmp_path / "pipe")
    with service_with_pipe(environment, reader) as running:
        reader.close()
        send(running, 200, "/find/Quercus/robur")
        wait_for(lambda: value(running, "fieldbook_log_lines_dropped_total") >= 200, description="dropped lines")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=30) == 0


def test_last_log_lines_are_written_before_the_processes_end(start: Callable[..., Service]) -> None:
    """With a reader, the end of master and workers loses no line, and those of a worker stay in order."""
    running = start({"WEB_CONCURRENCY": "2"})
    send(running, 50, "/find/Quercus/robur")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    log = running.log_text()
    assert log.count("GET /find/Quercus/robur 200") == 50
    assert log.count("Worker exiting") == 2
    assert "Shutting down: Master" in log.splitlines()[-1]


def test_reason_of_a_failed_start_is_written(start: Callable[..., Service]) -> None:
    """An application that can't be imported: the traceback and the end of the master are in the log."""
    with pytest.raises(AssertionError, match="ModuleNotFoundError: No module named 'nowhere'") as caught:
        start(app="nowhere:app")
    assert "Worker failed to boot" in str(caught.value)
