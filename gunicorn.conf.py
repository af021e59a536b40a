"""gunicorn's configuration, from the same settings as the service."""

from __future__ import annotations

import logs
from settings import settings_or_exit
from storage import db_connect

_settings = settings_or_exit()

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "gthread"
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


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """After the fork, so that each worker has a session of its own; in the background, so that it serves at once."""
    db_connect.start_connecting()


def worker_exit(server, worker):  # type: ignore[no-untyped-def]
    """Requests are done by now."""
    db_connect.shutdown()


def post_request(worker, req, environ, resp):  # type: ignore[no-untyped-def]
    """What this thread logs next is not of this request."""
    logs.request_id.set("-")


def pre_request(worker, req):  # type: ignore[no-untyped-def]
    """Says "Connection: close" where a body may stay unread, for gunicorn then closes the connection anyway."""
    length = next((int(value) for name, value in req.headers if name == "CONTENT-LENGTH"), 0)
    chunked = any(name == "TRANSFER-ENCODING" for name, _ in req.headers)
    if length > _settings.max_body_bytes or chunked:
        req.must_close = True
