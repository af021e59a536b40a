"""gunicorn's configuration, from the same settings as the service.

The master imports as little of the service as it can: what it has imported, a worker that is started after SIGHUP
would have as it was. For the same reason this file, which gunicorn then runs again, takes the settings anew.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys

from server import graceful_shutdown as drain

_before = {name: sys.modules.pop(name, None) for name in ("observability", "observability.logs", "settings")}

import settings  # noqa: E402
from observability import logs  # noqa: E402

try:
    _settings = settings.get_settings()
except settings.SettingsError as error:
    if _before["settings"] is None:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    logging.getLogger("gunicorn.error").error("The settings stay as they were: %s", error)
    sys.modules["settings"] = settings = _before["settings"]
    _settings = settings.get_settings()

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "server.worker.Worker"
threads = _settings.gunicorn_threads
keepalive = 75
graceful_timeout = 30
# Room for two names of 100 characters of four bytes each, percent-encoded, and a page_state.
limit_request_line = 8190
# What a proxy says of the client is for TRUSTED_PROXIES to believe or not; gunicorn would believe it of everyone
# who connects from this machine.
forwarded_allow_ips = ""
# Its default path is the same for every instance of a user.
control_socket_disable = True
logconfig_dict = logs.config(_settings.log_level)
logger_class = "server.worker.Logger"

# Before anything imports prometheus-client, which looks for it then.
settings.make_metrics_directory()


def when_ready(server):  # type: ignore[no-untyped-def]
    """Before the first fork."""
    on_reload(server)


def on_reload(server):  # type: ignore[no-untyped-def]
    """Also after SIGHUP: the listeners, and the settings, may be others then."""
    drain.install(server, _settings.drain_time)
    for listener in server.LISTENERS:
        _limit_idle_clients(listener.sock, _settings.client_idle_timeout)


def _limit_idle_clients(listener, seconds):  # type: ignore[no-untyped-def]
    """What is accepted has the listener's time-outs, so that no silent client keeps a thread for ever."""
    timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
    if listener.family != socket.AF_UNIX and hasattr(socket, "TCP_DEFER_ACCEPT"):
        # A connection that has not sent a first byte takes no thread yet.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, max(1, int(seconds)))


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """After the fork, so that each worker has a session of its own; in the background, so that it serves at once."""
    from observability.metrics import sampler
    from server import cpu_affinity as affinity
    from storage import db_connect

    db_connect.start_connecting()
    sampler.start()
    if _settings.cpu_affinity:
        affinity.start()


def worker_exit(server, worker):  # type: ignore[no-untyped-def]
    """Requests are done by now."""
    # Not imported here: gunicorn calls this in the master too, for a worker that it does not find any more.
    if "storage.db_connect" in sys.modules:
        sys.modules["storage.db_connect"].shutdown()


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    """In the master: a worker that is gone, however it went, counts in no gauge any more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def pre_request(worker, req):  # type: ignore[no-untyped-def]
    """Says "Connection: close" where a body may stay unread, for gunicorn then closes the connection anyway."""
    length = next((int(value) for name, value in req.headers if name == "CONTENT-LENGTH"), 0)
    chunked = any(name == "TRANSFER-ENCODING" for name, _ in req.headers)
    if length > _settings.max_body_bytes or chunked:
        req.must_close = True


def post_request(worker, req, environ, resp):  # type: ignore[no-untyped-def]
    """What this thread logs next is not of this request."""
    logs.request_id.set("-")
