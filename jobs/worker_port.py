"""The HTTP port of a job worker: its metrics and probes, served by a thread of the parent."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from celery.signals import celeryd_init, worker_process_init
from prometheus_client.multiprocess import mark_process_dead

from environment import metrics_directory
from observability import metrics
from observability.metrics_files import merge_ended
from settings import Settings

log = logging.getLogger(__name__)

# A fork copies locks as they are, so no process is forked while metrics are read.
_no_fork = threading.RLock()
os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_no_fork.release)


def serve_port(settings: Settings) -> None:
    """Serve the port from the start of a worker, if `settings` have one. Other commands of Celery do not serve it."""
    port = settings.job_port
    if port is None:
        return
    host = settings.host if settings.is_production else "127.0.0.1"

    def start(instance: Any, **_: Any) -> None:
        try:
            server = _Server((host, port), instance)
        except OSError as error:
            log.error("JOB_METRICS_PORT: port %d on %s can't be used: %s", port, host, error.strerror)
            raise SystemExit(2) from None
        threading.Thread(target=server.serve_forever, name="port", daemon=True).start()
        worker_process_init.connect(lambda **_: server.socket.close(), weak=False)

    # By default Celery keeps only a weak reference.
    celeryd_init.connect(start, weak=False)


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], worker: Any) -> None:
        """:param worker: Celery's `Worker`."""
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.worker = worker


class _Handler(BaseHTTPRequestHandler):
    # Seconds for which a thread waits for its client.
    timeout = 5
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            content_type, text = _metrics(self.headers.get("Accept", ""))
            self._respond(200, content_type, text)
        elif path == "/health/live":
            self._respond_json(200, {"status": "alive"})
        elif path == "/health/ready":
            reason = _why_not_ready(self.server.worker)
            if reason is None:
                self._respond_json(200, {"status": "ready"})
            else:
                self._respond_json(503, {"status": "not ready", "reason": reason})
        else:
            self._respond_json(404, {"status": "not found"})

    def _respond_json(self, status: int, document: dict[str, str]) -> None:
        self._respond(status, "application/json", json.dumps(document).encode())

    def _respond(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no line for a request: probes and Prometheus send one every few seconds."""


def _metrics(accept: str) -> tuple[str, bytes]:
    directory = metrics_directory() or ""
    with _no_fork:
        processes = {path.stem.rpartition("_")[2] for path in Path(directory).glob("*_*.db")}
        running = {os.getpid(), *(int(name) for name in processes if name.isdigit() and _is_running(int(name)))}
        for name in processes:
            if name.isdigit() and int(name) not in running:
                mark_process_dead(int(name))  # type: ignore[no-untyped-call]
        try:
            merge_ended(directory, running)
        except OSError as error:
            log.error("The metrics of ended processes could not be merged: %s", error)
        return metrics.exposition(accept, sample=False)


def _why_not_ready(worker: Any) -> str | None:
    """Why the worker receives no messages; None if it does.

    :param worker: Celery's `Worker`, whose parts exist some time after its start.
    """
    consumer: Any = getattr(worker, "consumer", None)
    connection = getattr(consumer, "connection", None)
    # After a failure, the steps of the consumer connect again one after the other. While one of them waits for the
    # broker, the connection of an earlier one may look as if it were in use.
    if connection is None or not connection.connected or consumer.blueprint.started < len(consumer.steps):
        return "The worker is not connected to the broker."
    pool = getattr(worker, "pool", None)
    if pool is None or not any(_is_running(process) for process in pool.info["processes"] if process):
        return "The worker has no processes."
    return None


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True
