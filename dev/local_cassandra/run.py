"""What `make run` does: a Cassandra, sample rows, gunicorn; on Ctrl-C it stops what it started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import Node, ring, service_pid_file, speaks_cql, why_not_free
from settings import Settings, settings_or_exit

PROJECT = Path(__file__).resolve().parents[2]

_TRY = """
Fieldbook answers on {url}   (read and try the API on {url}/docs)

  curl {url}/animal/Vulpes
  curl -s {url}/plant/Hieracium -H 'Accept: application/x-ndjson' | head -3
  curl {url}/users -H 'Content-Type: application/json' -d '{{"name": "Ada", "email": "ada@example.org", "age": 36}}'

Ctrl-C stops {what}."""

# Production has no sample rows.
_TRY_NOTHING = """
Fieldbook answers on {url}

Ctrl-C stops {what}."""

# Ctrl-C, a request to end, a terminal that was closed.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stop(BaseException):
    """One of the signals came."""


def _on_signal(number: int, frame: object) -> None:
    # Once is enough: `timeout make run` sends it twice, and what is being stopped must be stopped to the end.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise _Stop


def main() -> None:
    settings = settings_or_exit()
    for each in _SIGNALS:
        # Under nohup a closed terminal ends nothing.
        if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _on_signal)
    node: Node | None = None
    gunicorn: subprocess.Popen[bytes] | None = None
    try:
        if reason := why_not_free(settings.host, settings.port):
            sys.exit(
                f"Port {settings.port} on {settings.host} can't be used: {reason}. Another one: "
                f"make run PORT={settings.port + 1}. `make stop` ends what an earlier make run has left."
            )
        node = _cassandra(settings)
        # No sample rows among somebody's real ones.
        samples = ["--no-samples"] if settings.app_env == "production" else []
        initialized = subprocess.run(
            [sys.executable, "-m", "storage.db_initialize", *samples], cwd=PROJECT, start_new_session=True, check=False
        )
        if initialized.returncode != 0:
            sys.exit(initialized.returncode)
        gunicorn = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--pid", str(service_pid_file(settings.port)), "wsgi:app"],
            cwd=PROJECT,
            # As with the node: Ctrl-C comes here first, and is passed on in the right order.
            start_new_session=True,
        )
        _wait_until_healthy(settings, gunicorn)
        what = "both the service and its Cassandra" if node else "the service and not the Cassandra it uses"
        tries = _TRY if settings.app_env == "development" else _TRY_NOTHING
        print(tries.format(url=f"http://{settings.host}:{settings.port}", what=what), flush=True)
        sys.exit(gunicorn.wait())
    except _Stop:
        _say("\nStopping ...")
    except NodeError as error:
        sys.exit(str(error))
    finally:
        for each in _SIGNALS:
            # What is being stopped is stopped to the end.
            signal.signal(each, signal.SIG_IGN)
        if gunicorn is not None and gunicorn.poll() is None:
            gunicorn.terminate()
            gunicorn.wait()
        if node is not None and node.stop():
            _say("Cassandra stopped; its data is kept for the next time.")


def _say(line: str) -> None:
    # To a terminal that may be closed by now.
    with suppress(OSError):
        print(line, flush=True)


def _cassandra(settings: Settings) -> Node | None:
    """The node that was started, or None when there is another Cassandra to use."""
    if settings.astra:
        print(f"Using Astra DB ({settings.astra_db_secure_bundle_path}); no Cassandra is started.", flush=True)
        return None
    if "cassandra_hosts" in settings.model_fields_set:
        where = f"{','.join(settings.cassandra_hosts)}:{settings.cassandra_port}"
        print(f"Using the Cassandra that CASSANDRA_HOSTS names ({where}); none is started.", flush=True)
        return None
    (node,) = ring(1, settings.cassandra_port)
    where = f"{node.address}:{node.native_port}"
    if speaks_cql(node.address, node.native_port):
        print(f"Using the Cassandra that answers on {where} already; none is started.", flush=True)
        return None
    print(f"Starting Cassandra on {where} ...", flush=True)
    began = time.monotonic()
    try:
        node.start()
        node.wait_until_ready()
    except BaseException:
        node.stop()
        raise
    print(f"Cassandra answers after {time.monotonic() - began:.0f} s; its log is {node.log}", flush=True)
    return node


def _wait_until_healthy(settings: Settings, gunicorn: subprocess.Popen[bytes], timeout: float = 60.0) -> None:
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
    sys.exit("The service did not become healthy; its lines above say why.")


if __name__ == "__main__":
    main()
