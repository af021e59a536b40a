"""The steps of a request, in the order in which they run.

Before the view:

1. `request_id.assign`: the client's `X-Request-ID`, or a new one, for the response and the log.
2. If no route matches, Flask raises 404 or 405, and steps 3 to 8 do not run. They do not run for OPTIONS either.
3. `operators.require_operator`: on routes for operators, 401 or 403 for other clients.
4. `read_only.reject_write`: in read-only mode, 503 for writes.
5. `deadline.find` and `consistency_level.find`: `X-Request-Timeout` and `X-Consistency-Level`, as `g.options`.
6. `concurrency_limit`: if too many requests are in flight, wait in the queue; 503 if it is full or the wait too long.
7. `content_negotiation.negotiate`: `Accept`, as `g.media_type`; `query_string.reject_repeated_parameters`.
8. The Cassandra session, as `g.session`.

The view checks its input, calls `storage.db_io` and returns a response. `errors.py` turns exceptions into problem
documents. After the view:

9. Response headers: those of `content_negotiation.finish`, `X-Request-ID` and `Server-Timing`.
10. `access_log.write`: metrics and one log line.
"""

from __future__ import annotations

import time

from flask import Flask, Response, current_app, g, request

from server.connection import arrived_at
from settings import Settings
from storage.cql import QueryOptions
from web import access_log, consistency_level, content_negotiation, deadline, read_only, request_id
from web.concurrency_limit import ConcurrencyLimit
from web.dependencies import current_session
from web.operators import require_operator
from web.query_string import reject_repeated_parameters
from web.route_options import options_of


def register(app: Flask, settings: Settings) -> None:
    """Add the hooks to an application."""
    concurrency_limit = ConcurrencyLimit.install(app, settings)
    read_only.register(settings)

    def before_request() -> None:
        g.started = arrived_at(request.environ)
        request_id.assign()
        view = current_app.view_functions.get(request.endpoint or "")
        if view is None or request.method == "OPTIONS":
            return
        route = options_of(view)
        if route.operators_only(settings):
            require_operator(settings.operator_token)
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
        if request.query_string:
            reject_repeated_parameters()
        if route.session:
            g.session = current_session(g.options.remaining())

    def after_request(response: Response) -> Response:
        # Flask's proxies look up the object on each access. Looked up once here, because it is used many times below.
        context, current = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]
        elapsed = time.monotonic() - context.started
        content_negotiation.finish(response, context)
        response.headers["X-Request-ID"] = context.request_id
        # For a stream, both times end with its first page.
        database = context.options.database.seconds if "options" in context else 0.0
        timing = f"db;dur={database * 1000:.2f}, app;dur={(elapsed - database) * 1000:.2f}"
        response.headers["Server-Timing"] = timing
        access_log.write(response, current, elapsed)
        return response

    app.before_request(before_request)
    app.after_request(after_request)
