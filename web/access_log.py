"""The metrics and the log line of each request."""

from __future__ import annotations

import logging
import re
from urllib.parse import quote

from flask import Request, Response

from observability import metrics

log = logging.getLogger("fieldbook.requests")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~-]*")


def write(response: Response, request: Request, elapsed: float) -> None:
    """Count the request and log it.

    :param elapsed: seconds since the request began; for a stream, until its first page.
    """
    # Clients control method and path: bound the label cardinality.
    method = request.method if request.method in _METHODS else "other"
    route = request.url_rule.rule if request.url_rule else "none"
    metrics.observe_request(route, method, response.status_code, elapsed)
    # The path is quoted: a line break in it can't forge a log line. The query may hold secrets and is left out.
    path = request.path if _PLAIN_PATH.fullmatch(request.path) else quote(request.path, safe="/@:+,")
    # A Unix socket has no address. Behind a proxy, forwarded_headers.py has checked the text from X-Forwarded-For.
    client = request.remote_addr or "-"
    log.info("%s %s %d %.1f ms %s", request.method, path, response.status_code, elapsed * 1000, client)
