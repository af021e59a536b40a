"""Read-only mode (READ_ONLY): the service rejects writes with 503, and continues to serve reads."""

from __future__ import annotations

from flask import request
from werkzeug.exceptions import ServiceUnavailable

from observability import metrics
from settings import Settings
from web.route_options import RouteOptions

# Seconds. Maintenance takes longer than the faults that web.errors.RETRY_AFTER is for.
_RETRY_AFTER = 30


def register(settings: Settings) -> None:
    """Report the mode as a metric."""
    metrics.sampler.add(metrics.WORKERS_READ_ONLY, lambda: settings.read_only)


def reject_write(route: RouteOptions) -> None:
    """Reject the current request if it is a write: an unsafe method on a route with a session.

    Routes without a session, such as POST /shutdown, write nothing. POST /auth/token works without a write.

    :raises ServiceUnavailable: the request is a write.
    """
    if route.session and route.writes and request.method not in ("GET", "HEAD"):
        raise ServiceUnavailable(
            "The service is in read-only mode for maintenance: it accepts no writes. Nothing was changed.",
            retry_after=_RETRY_AFTER,
        )
