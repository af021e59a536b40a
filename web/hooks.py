"""What every request goes through: its id, its deadline, its consistency level, what it accepts, its session."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import getrandbits
from typing import Any, Literal, TypeVar
from urllib.parse import quote
from uuid import UUID

from flask import Flask, Response, current_app, g, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import NotAcceptable, ServiceUnavailable
from werkzeug.http import parse_accept_header

from observability import logs, metrics
from settings import Settings
from storage import db_connect
from storage.cql.execution import QueryOptions
from web.concurrency_limit import InFlight
from web.errors import RETRY_AFTER, InvalidInput
from web.operators import require_operator

log = logging.getLogger("fieldbook.requests")

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
HTML = "text/html"
STREAM_TYPES = (JSON, NDJSON, CSV)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

CONSISTENCY_LEVELS = ("ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE")
MAX_TIMEOUT = 60.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PLAIN = re.compile(r"[A-Za-z0-9/._~-]*")
# A JSON number: neither nan nor inf nor 1_000, which float() would take too.
_SECONDS = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class RouteOptions:
    """What the hooks and the OpenAPI document must know of a view.

    :ivar produces: media types it can answer with, the default one first; none for no negotiation.
    :ivar session: it needs Cassandra. Such a request takes a slot, and is refused when there is none; the others are
        how one sees that this is so.
    :ivar stream: it has no deadline of its own, only a time-out for each page.
    :ivar timeout: seconds; its deadline when the client names none, instead of REQUEST_TIMEOUT.
    :ivar operators: who is no operator is refused: everywhere, only in production, or not at all.
    """

    produces: tuple[str, ...] = (JSON,)
    session: bool = True
    stream: bool = False
    timeout: float | None = None
    operators: Literal["everywhere", "in production"] | None = None

    def operators_only(self, settings: Settings) -> bool:
        """Whether it is for operators where the service runs with `settings`."""
        return self.operators == "everywhere" or (
            self.operators == "in production" and settings.app_env == "production"
        )


_USUAL = RouteOptions()


def route_options(**options: Any) -> Callable[[View], View]:
    """Says of a view what is not the rule, by the names of :class:`RouteOptions`; goes below the route decorator."""

    def mark(view: View) -> View:
        view.route_options = RouteOptions(**options)  # type: ignore[attr-defined]
        return view

    return mark


def options_of(view: object) -> RouteOptions:
    """What :func:`route_options` has said of a view, or the rule."""
    return getattr(view, "route_options", _USUAL)


def register(app: Flask, settings: Settings) -> None:
    """Adds the hooks to `app`."""
    in_flight = InFlight(app.wsgi_app, settings.in_flight_limit)
    app.wsgi_app = in_flight  # type: ignore[method-assign]
    metrics.sampler.add(metrics.IN_FLIGHT, lambda: in_flight.count)
    metrics.sampler.add(metrics.IN_FLIGHT_LIMIT, lambda: in_flight.limit)

    def before() -> None:
        _identify()
        view = current_app.view_functions.get(request.endpoint or "")
        if view is None or request.method == "OPTIONS":
            # No such route or method: what routing found out is raised after this hook, database or not.
            return
        route = options_of(view)
        if route.operators_only(settings):
            require_operator()
        if route.session and not in_flight.enter(request.environ):
            metrics.REFUSED.inc()
            raise ServiceUnavailable("Too many requests are in flight.", retry_after=RETRY_AFTER)
        g.options = _options(settings, route)
        if route.produces and request.method != "DELETE":
            g.produces = route.produces
            g.media_type = _negotiate(route.produces)
        if route.session:
            g.session = db_connect.get_session(timeout=g.options.remaining())

    app.before_request(before)
    app.after_request(_after)


def _identify() -> None:
    g.started = time.monotonic()
    given = request.headers.get("X-Request-ID", "")
    # Until there is sign-in, all are one caller.
    g.caller = "anonymous"
    # Nobody is kept out by not knowing it, so it need not come from the system's generator.
    g.request_id = given if _REQUEST_ID.fullmatch(given) else str(UUID(int=getrandbits(128), version=4))
    logs.request_id.set(g.request_id)


def _options(settings: Settings, route: RouteOptions) -> QueryOptions:
    options = QueryOptions(timeout=settings.request_timeout)
    seconds = request.headers.get("X-Request-Timeout")
    if seconds is not None:
        if not _SECONDS.fullmatch(seconds) or not 0 < float(seconds) <= MAX_TIMEOUT:
            raise InvalidInput.at("header", "X-Request-Timeout", "Input should be seconds, above 0 and at most 60")
        options.deadline = g.started + float(seconds)
    elif not route.stream:
        options.deadline = g.started + (route.timeout or settings.request_timeout)
    level = request.headers.get("X-Consistency-Level")
    if level is not None:
        allowed = CONSISTENCY_LEVELS if request.method in ("GET", "HEAD") else (*CONSISTENCY_LEVELS, "ANY")
        if level not in allowed:
            raise InvalidInput.at("header", "X-Consistency-Level", f"Input should be one of {', '.join(allowed)}")
        options.consistency_level = level
    return options


def _negotiate(produces: tuple[str, ...]) -> str:
    accept = request.headers.get("Accept")
    if not accept or accept == "*/*":
        return produces[0]
    # Older clients write "q=.2" and "*", which Werkzeug does not read.
    accept = re.sub(r"(^|,)\s*\*\s*(?=[;,]|$)", r"\1*/*", re.sub(r"\bq=\.", "q=0.", accept))
    # By type and subtype: a charset or another parameter asks for nothing that this service has two of.
    parsed = parse_accept_header(accept, MIMEAccept)
    wanted = [(value.partition(";")[0].strip(), quality) for value, quality in parsed]
    best = MIMEAccept(wanted).best_match(produces) if wanted else produces[0]
    if best is None:
        raise NotAcceptable(f"This resource is to be had as {', '.join(produces)}.")
    return best


def _after(response: Response) -> Response:
    # Each access through one of Flask's proxies looks the object up again, and these are many.
    context, asked = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]
    elapsed = time.monotonic() - context.started
    database = context.options.database.seconds if "options" in context else 0.0
    headers = response.headers
    if response.status_code in (204, 304):
        # Nothing has no type; Flask gives it one.
        headers.pop("Content-Type", None)
    headers["X-Request-ID"] = context.request_id
    if len(context.get("produces", ())) > 1:
        response.vary.add("Accept")
    headers["Server-Timing"] = f"db;dur={database * 1000:.2f}, app;dur={(elapsed - database) * 1000:.2f}"
    # Whoever makes up methods and paths makes up no new time series.
    method = asked.method if asked.method in _METHODS else "other"
    route = asked.url_rule.rule if asked.url_rule else "none"
    metrics.observe_request(route, method, response.status_code, elapsed)
    # Quoted, so that a line break in a URL makes no second log line; without the query, which may hold secrets.
    path = asked.path if _PLAIN.fullmatch(asked.path) else quote(asked.path, safe="/@:+,")
    log.info("%s %s %d %.1f ms", asked.method, path, response.status_code, elapsed * 1000)
    return response
