"""Routes of the probes.

They are available in development, and to operators in production with DIAGNOSTICS=true.
"""

from __future__ import annotations

from flask import g

from diagnostics import probes, schemas
from routes.blueprint import Blueprint
from web.openapi import responses
from web.responses import ResponseValue
from web.route_options import route_options

# Seconds for which /slow_query and /long_running_query send queries, and the default deadline of the latter.
_SLOW = 5.0
_LONG = 10.0
_LONG_TIMEOUT = 15.0

blueprint = Blueprint("diagnostics", __name__, is_enabled=lambda settings: settings.has_diagnostics)


@blueprint.get("/performance/async", responses=responses(200, schemas.Performance))
@route_options(scope="operator", sign_in="in production")
def performance_async(query: schemas.PerformanceQuery) -> ResponseValue:
    """Measure the time of queries that are sent all at once."""
    return probes.query_concurrently(g.session, query.requests, g.options)


@blueprint.get("/performance/sync", responses=responses(200, schemas.Performance))
@route_options(scope="operator", sign_in="in production")
def performance_sync(query: schemas.PerformanceQuery) -> ResponseValue:
    """Measure the time of queries that are sent one after the other."""
    return probes.query_serially(g.session, query.requests, g.options)


@blueprint.get("/slow_query", responses=responses(200, schemas.LongQuery))
@route_options(scope="operator", sign_in="in production")
def slow_query() -> ResponseValue:
    """Send queries for 5 seconds, or until the deadline."""
    return probes.query_for(g.session, _SLOW, g.options)


@blueprint.get("/long_running_query", responses=responses(200, schemas.LongQuery))
@route_options(scope="operator", sign_in="in production", timeout=_LONG_TIMEOUT)
def long_running_query() -> ResponseValue:
    """Send queries for 10 seconds while the worker serves other requests.

    The default deadline is 15 seconds.
    """
    return probes.query_for(g.session, _LONG, g.options)


@blueprint.post("/context_manager_safety/query_error", responses=responses(200, schemas.QueryErrorFindings))
@route_options(scope="operator", sign_in="in production")
def query_error() -> ResponseValue:
    """Whether the session still works after a query of a table that does not exist."""
    return probes.survive_query_error(g.session, g.options)


@blueprint.post("/context_manager_safety/streaming_error", responses=responses(200, schemas.StreamingErrorFindings))
@route_options(scope="operator", sign_in="in production")
def streaming_error() -> ResponseValue:
    """Whether the session still works after a stream that fails midway."""
    return probes.survive_streaming_error(g.session, g.options)


@blueprint.post(
    "/context_manager_safety/concurrent_streams", responses=responses(200, schemas.ConcurrentStreamsFindings)
)
@route_options(scope="operator", sign_in="in production")
def concurrent_streams() -> ResponseValue:
    """Whether three concurrent streams on one session return their own rows only."""
    return probes.stream_concurrently(g.session, g.options)


@blueprint.post("/context_manager_safety/nested_contexts", responses=responses(200, schemas.NestedContextsFindings))
@route_options(scope="operator", sign_in="in production")
def nested_contexts() -> ResponseValue:
    """Whether nested contexts of cluster, session and stream close in reverse order.

    Each context must close only what it opened.
    """
    return probes.nest_contexts(g.session, g.options)


@blueprint.post("/context_manager_safety/cancellation", responses=responses(200, schemas.CancellationFindings))
@route_options(scope="operator", sign_in="in production")
def cancellation() -> ResponseValue:
    """Whether a stream that is closed midway ends, and its session still works."""
    return probes.cancel_stream(g.session, g.options)


@blueprint.get("/context_manager_safety/status", responses=responses(200, schemas.ConnectionStatus))
@route_options(scope="operator", sign_in="in production", session=False)
def status() -> ResponseValue:
    """Session and cluster of the worker that answers. Does not use Cassandra."""
    return probes.connection_status()
