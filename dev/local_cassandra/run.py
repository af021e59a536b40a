"""The command of `make run`: start Cassandra, gunicorn and a job worker; stop them on Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.job_worker import JobWorker
from dev.local_cassandra.node import STATE, Node, bind_error, ring, service_pid_file, speaks_cql
from environment import default_to_development, settings_or_exit
from server.loopback import check_addresses
from settings import Settings, SettingsError

PROJECT = Path(__file__).resolve().parents[2]

# In this order: Ctrl-C, a request to end, a closed terminal.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StopRequested(BaseException):
    """Raised when the process receives the first of _STOP_SIGNALS."""


class _StopSignals:
    """The handler of _STOP_SIGNALS.

    It stays in place during the cleanup. Python reports an error for a signal that arrived before its handler was
    replaced with SIG_IGN, and child processes inherit SIG_IGN.
    """

    def __init__(self) -> None:
        #: Whether further signals are ignored: a signal was received, or the cleanup has begun.
        self.ignored = False

    def install(self) -> None:
        for stop_signal in _STOP_SIGNALS:
            # nohup ignores SIGHUP, so that a closed terminal does not stop the service. Keep it ignored.
            if stop_signal != signal.SIGHUP or signal.getsignal(stop_signal) is not signal.SIG_IGN:
                signal.signal(stop_signal, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        # `timeout make run` sends the signal twice. Ignore the second one, so that it does not interrupt the cleanup.
        if not self.ignored:
            self.ignored = True
            raise _StopRequested


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.local_cassandra.run", description=__doc__)
    parser.add_argument("--reload", action="store_true", help="restart the workers when a Python file changes")
    arguments = parser.parse_args()
    settings = _settings_or_exit()
    stop_signals = _StopSignals()
    stop_signals.install()
    node: Node | None = None
    gunicorn: subprocess.Popen[bytes] | None = None
    job_worker = JobWorker(settings.port)
    try:
        if reason := bind_error(settings.host, settings.port):
            sys.exit(
                f"Port {settings.port} on {settings.host} can't be used: {reason}. Choose another port with "
                f"`make run PORT={settings.port + 1}`, or stop an earlier make run with `make stop`."
            )
        node = _start_cassandra(settings)
        # A production keyspace holds real rows: add no sample rows to it.
        samples = ["--no-samples"] if settings.is_production else []
        initialized = subprocess.run(
            [sys.executable, "-m", "storage.db_initialize", *samples], cwd=PROJECT, start_new_session=True, check=False
        )
        if initialized.returncode != 0:
            sys.exit(initialized.returncode)
        STATE.mkdir(exist_ok=True)
        pid_file = str(service_pid_file(settings.port))
        reload = ["--reload"] if arguments.reload else []
        gunicorn = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--pid", pid_file, *reload, "wsgi:app"],
            cwd=PROJECT,
            # In its own session gunicorn does not receive Ctrl-C: this process stops it before Cassandra.
            start_new_session=True,
        )
        _wait_until_healthy(settings, gunicorn)
        # In production without CELERY_BROKER_URL, nothing can send messages to a worker.
        if settings.broker_url is not None:
            job_worker.start()
        print(_banner(settings, stops_cassandra=node is not None, reloads=arguments.reload), flush=True)
        sys.exit(_status_at_end(gunicorn))
    except _StopRequested:
        _print_if_possible("\nStopping ...")
    except NodeError as error:
        sys.exit(str(error))
    finally:
        stop_signals.ignored = True
        job_worker.stop()
        if gunicorn is not None and gunicorn.poll() is None:
            gunicorn.terminate()
            gunicorn.wait()
        if node is not None and node.stop():
            _print_if_possible("Cassandra stopped. Its data is kept for the next start.")


def _status_at_end(process: subprocess.Popen[bytes]) -> int:
    # Don't use wait(): a signal that arrives just before its system call does not interrupt the call, and Python runs
    # the handler only after the call.
    while (status := process.poll()) is None:
        time.sleep(0.1)
    return status


def _settings_or_exit() -> Settings:
    """The settings, in development by default. Exit if gunicorn would refuse them, before Cassandra starts."""
    default_to_development()
    settings = settings_or_exit()
    try:
        settings.check_signing_key()
        check_addresses(settings, [settings.host])
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    return settings


def _print_if_possible(line: str) -> None:
    # The terminal may be closed already.
    with suppress(OSError):
        print(line, flush=True)


def _banner(settings: Settings, stops_cassandra: bool, reloads: bool) -> str:
    """Return the text for a service that is ready: URL, documentation and example requests."""
    # Import the routes only now: they need valid settings, and an invalid setting must not print a traceback.
    from routes import RESOURCES

    url = f"http://{settings.host}:{settings.port}"
    lines = ["", f"Fieldbook is ready at {url}", f"API documentation: {url}/docs", ""]
    # The examples read sample rows, which production does not have. They may contain JSON, so str.format() fails.
    if settings.app_env == "development":
        examples = [resource.example.replace("{url}", url) for resource in RESOURCES if resource.example]
        lines += [f"  curl {example}" for example in examples]
        lines += [""] if examples else []
    if reloads:
        lines.append("The workers restart when a Python file changes, but not the job worker.")
    stopped = "the service and Cassandra" if stops_cassandra else "the service; Cassandra keeps running"
    lines.append(f"Press Ctrl-C to stop {stopped}.")
    return "\n".join(lines)


def _start_cassandra(settings: Settings) -> Node | None:
    """Start a node, unless the settings name a Cassandra or one already runs on the port.

    :returns: the started node, or None when the service uses another Cassandra.
    :raises NodeError: when the node does not start.
    """
    if settings.astra:
        print(f"Using Astra DB ({settings.astra_db_secure_bundle_path}). No Cassandra is started.", flush=True)
        return None
    if "cassandra_hosts" in settings.model_fields_set:
        where = f"{','.join(settings.cassandra_hosts)}:{settings.cassandra_port}"
        print(f"Using the Cassandra that CASSANDRA_HOSTS names ({where}). No Cassandra is started.", flush=True)
        return None
    (node,) = ring(1, settings.cassandra_port)
    where = f"{node.address}:{node.native_port}"
    if speaks_cql(node.address, node.native_port):
        print(f"Using the Cassandra that already runs on {where}. No other Cassandra is started.", flush=True)
        print(f"The service uses keyspace {settings.cassandra_keyspace} there.", flush=True)
        print("To start a separate node: make run CASSANDRA_PORT=19042", flush=True)
        return None
    print(f"Starting Cassandra on {where} ...", flush=True)
    began = time.monotonic()
    node.start()
    try:
        node.wait_until_ready()
    except BaseException:
        node.stop()
        raise
    print(f"Cassandra is ready after {time.monotonic() - began:.0f} s. Its log: {node.log}", flush=True)
    return node


def _wait_until_healthy(settings: Settings, gunicorn: subprocess.Popen[bytes], timeout: float = 60.0) -> None:
    """Return when /health returns 200; exit when gunicorn ends or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if gunicorn.poll() is not None:
            sys.exit(gunicorn.returncode or 1)
        connection = HTTPConnection(settings.host, settings.port, timeout=3)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    sys.exit(f"The service was not healthy within {timeout:.0f} s. Its log lines above say why.")


if __name__ == "__main__":
    main()
