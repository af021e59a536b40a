"""A real Redis for tests, which they may stop: Debian's `redis-server`."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from dev.local_cassandra.node import free_port
from tests.support import wait_for

PASSWORD = "the password of Redis"
URL_PASSWORD = PASSWORD.replace(" ", "%20")


class RedisServer:
    """A Redis on a free port, which stores nothing on disk."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://:{URL_PASSWORD}@127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port, password=PASSWORD, socket_timeout=5)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--requirepass",
            PASSWORD,
        ]
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._directory, stdout=log, stderr=log)
        wait_for(self._answers, description="Redis")

    def kill(self) -> None:
        """End the server without notice. It loses all counts."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let the server accept connections, but answer nothing, until `resume()`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def keys(self) -> list[str]:
        """Return the keys of all counts."""
        return sorted(key.decode() for key in self.client.scan_iter("fieldbook:*") if b"probe" not in key)

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    """Run a Redis until the block ends. Skip the test if there is no `redis-server`.

    :param directory: for its log.
    """
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server (on Debian: apt-get install redis-server)")
    server = RedisServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        server.client.close()
