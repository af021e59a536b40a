"""gunicorn's configuration: settings and hooks.

The code behind the hooks is in server/. gunicorn runs this file at its start and again after SIGHUP. Hooks that run in
a worker import the project's modules inside the function, because a reloaded worker has newer copies than the master
(server/reload.py).
"""

from __future__ import annotations

import sys

from server import graceful_shutdown, loopback, metrics_directory, stderr
from server.reload import forget_application, import_settings, prepare_worker

stderr.install()
_settings = import_settings()

from observability import logs  # noqa: E402

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "server.worker.Worker"
threads = _settings.worker_threads
# Connections of a worker. Above it, the connection that has waited longest for its client is closed.
worker_connections = 2000
keepalive = 75
graceful_timeout = 30
# Bytes. Fits two names of 100 characters, percent-encoded from four bytes each, and a page_state.
limit_request_line = 8190
# By default gunicorn trusts proxy headers from every client on this machine. TRUSTED_PROXIES decides instead.
forwarded_allow_ips = ""
# The control socket's default path is the same for all instances of a user.
control_socket_disable = True
logconfig_dict = logs.config(_settings.log_level)
logger_class = "server.worker.Logger"

metrics_directory.create()


def when_ready(server):  # type: ignore[no-untyped-def]
    """In the master, before it forks the first worker."""
    loopback.require(server, _settings)
    graceful_shutdown.install(server, _settings.drain_time)
    if _settings.redis_url is None and (_settings.request_limit or _settings.sign_in != "off"):
        server.log.info(
            "Rate limits are approximate: without REDIS_URL, each worker of each instance counts by itself, up to the "
            "limit divided by WEB_CONCURRENCY (%d).",
            _settings.web_concurrency,
        )


def on_reload(server):  # type: ignore[no-untyped-def]
    """In the master, after SIGHUP: settings and listeners may have changed."""
    when_ready(server)
    forget_application(server)


def post_fork(server, worker):  # type: ignore[no-untyped-def]
    """In a new worker, before it imports the application."""
    prepare_worker(worker)


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """In a new worker: start its background threads.

    Each worker has its own connections to Cassandra and Redis. They open in the background, so that the worker serves
    at once.
    """
    if worker.has_failed_import:
        return
    from environment import get_settings
    from observability.metrics import LOG_LINES_DROPPED, sampler
    from server import cpu_affinity
    from storage import db_connect
    from web import rate_limits

    db_connect.start_connecting()
    rate_limits.start_connecting(worker.wsgi)
    sampler.add_increments(LOG_LINES_DROPPED, stderr.take_dropped)
    sampler.start()
    if get_settings().cpu_affinity:
        cpu_affinity.start()


def worker_exit(server, worker):  # type: ignore[no-untyped-def]
    """In a worker when its requests are complete, and in the master if the worker has died."""
    # Closed only if it is imported, and not imported here: the master must not import it.
    if "storage.db_connect" in sys.modules:
        sys.modules["storage.db_connect"].shutdown()


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    """In the master, when a worker has ended for any reason."""
    metrics_directory.worker_ended(server, worker.pid)
