"""The steps of a request, in the order in which they run.

Before the view:

1. `request_id.assign`: the client's `X-Request-ID`, or a new one, for the response and the log.
2. `trusted_hosts`: 400 if the host is not in TRUSTED_HOSTS, except on the health routes.
3. `cors.preflight`: the response to a preflight request of a browser. No further step of this list runs for it.
4. `routing.check`: 400 for a path that is not UTF-8, 404 instead of a redirect, and the methods of a static path. If no
   route matches, Flask raises 404 or 405, and steps 5 to 12 do not run. They do not run for OPTIONS either.
5. `access.identify`: the caller, as `g.caller`, from the token in `Authorization`.
6. `rate_limits.check`: 429 if the caller, or the address of an anonymous client, has sent too many requests.
7. `access.require_scope`: 401 without a valid token, 403 without the scope that the route requires.
8. `read_only.reject_write`: in read-only mode, 503 for writes.
9. `deadline.find` and `consistency_level.find`: `X-Request-Timeout` and `X-Consistency-Level`, as `g.options`.
10. `concurrency_limit`: if too many requests are in flight, wait in the queue; 503 if it is full or the wait too long.
11. `content_negotiation.negotiate`: `Accept`, as `g.media_type`; `query_string.check`.
12. The Cassandra session, as `g.session`.

The view checks its input, calls `storage.db_io` and returns a response. `errors.py` turns exceptions into problem
documents. After the view:

13. Response headers: those of `content_negotiation.finish`, `rate_limits.finish`, `cors.finish` and
    `security_headers.finish`, `X-Request-ID` and `Server-Timing`.
14. `access_log.write`: metrics and one log line.
"""

from __future__ import annotations

import time

from flask import Flask, Response, current_app, g, request

from server.connection import arrived_at
from server.streamed_body import STREAMED_BODIES
from settings import Settings
from storage.cql import QueryOptions
from web import (
    access_log,
    consistency_level,
    content_negotiation,
    deadline,
    query_string,
    read_only,
    request_id,
    routing,
    trusted_hosts,
)
from web.access import Access
from web.concurrency_limit import ConcurrencyLimit
from web.cors import AllowedOrigins
from web.dependencies import current_session
from web.rate_limits import RateLimits
from web.route_options import options_of
from web.security_headers import SecurityHeaders


def register(app: Flask, settings: Settings) -> None:
    """Add the hooks to an application, after all of its routes are registered."""
    concurrency_limit = ConcurrencyLimit.install(app, settings)
    access = Access(app, settings)
    rate_limits = RateLimits(app, settings)
    allowed_origins = AllowedOrigins(settings)
    security_headers = SecurityHeaders(settings)
    require_trusted_host = trusted_hosts.checker(settings.trusted_hosts)
    static_paths = routing.static_paths(app)
    app.extensions[STREAMED_BODIES] = routing.upload_paths(app)
    read_only.register(settings)

    def before_request() -> Response | None:
        g.started = arrived_at(request.environ)
        request_id.assign()
        view = current_app.view_functions.get(request.endpoint or "")
        route = options_of(view)
        if not route.any_host:
            require_trusted_host()
        if (response := allowed_origins.preflight(request, static_paths)) is not None:
            return response
        if (response := routing.check(static_paths)) is not None:
            return response
        if view is None or request.method == "OPTIONS":
            return None
        access.identify(route)
        if route.rate_limited:
            rate_limits.check()
        access.require_scope(route)
        if settings.read_only:
            read_only.reject_write(route)
        g.options = QueryOptions(
            deadline=deadline.find(settings.request_timeout, route),
            timeout=settings.request_timeout,
            consistency_level=consistency_level.find(),
        )
        if kind := route.kind:
            concurrency_limit.enter(request.environ, kind, g.options.deadline)
        content_negotiation.negotiate(route)
        if query := request.query_string:
            query_string.check(query)
        if route.session:
            g.session = current_session(g.options.remaining())
        return None

    def after_request(response: Response) -> Response:
        # Flask's proxies look up the object on each access. Looked up once here, because it is used many times below.
        context, current = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]
        elapsed = time.monotonic() - context.started
        content_negotiation.finish(response, context)
        rate_limits.finish(response, context)
        allowed_origins.finish(response, current)
        security_headers.finish(response, current, context)
        response.headers["X-Request-ID"] = context.request_id
        # For a stream, both times end with its first page.
        database = context.options.database.seconds if "options" in context else 0.0
        timing = f"db;dur={database * 1000:.2f}, app;dur={(elapsed - database) * 1000:.2f}"
        response.headers["Server-Timing"] = timing
        access_log.write(response, current, elapsed)
        return response

    app.before_request(before_request)
    app.after_request(after_request)
