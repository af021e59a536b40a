"""Probes of the running service. On in development; in production with DIAGNOSTICS=1, and for operators."""

from __future__ import annotations

from flask import g
from flask_openapi3 import APIBlueprint, Tag

from diagnostics import probes
from diagnostics import schemas as models
from web.hooks import route_options
from web.openapi import answers
from web.responses import Answer

# Seconds that the two slow calls query for, and the deadline of the one that is longer than REQUEST_TIMEOUT.
_SLOW = 5.0
_LONG = 10.0
_LONG_TIMEOUT = 15.0

diagnostics = APIBlueprint("diagnostics", __name__, abp_tags=[Tag(name="diagnostics")])


@diagnostics.get("/performance/async", responses=answers(200, models.Performance))
@route_options(operators="in production")
def performance_async(query: models.PerformanceQuery) -> Answer:
    """Time queries that are all sent at once."""
    return probes.query_concurrently(g.session, query.requests, g.options)


@diagnostics.get("/performance/sync", responses=answers(200, models.Performance))
@route_options(operators="in production")
def performance_sync(query: models.PerformanceQuery) -> Answer:
    """Time queries that are sent one after the other."""
    return probes.query_serially(g.session, query.requests, g.options)


@diagnostics.get("/slow_query", responses=answers(200, models.LongQuery))
@route_options(operators="in production")
def slow_query() -> Answer:
    """Query for 5 seconds, or until the deadline."""
    return probes.query_for(g.session, _SLOW, g.options)


@diagnostics.get("/long_running_query", responses=answers(200, models.LongQuery))
@route_options(operators="in production", timeout=_LONG_TIMEOUT)
def long_running_query() -> Answer:
    """Query for 10 seconds, while others are answered. Its own deadline is 15 seconds."""
    return probes.query_for(g.session, _LONG, g.options)


@diagnostics.post("/context_manager_safety/query_error", responses=answers(200, models.QueryErrorFindings))
@route_options(operators="in production")
def query_error() -> Answer:
    """Whether the session survives a query for a table that does not exist."""
    return probes.survive_query_error(g.session, g.options)


@diagnostics.post("/context_manager_safety/streaming_error", responses=answers(200, models.StreamingErrorFindings))
@route_options(operators="in production")
def streaming_error() -> Answer:
    """Whether the session survives a stream that fails midway."""
    return probes.survive_streaming_error(g.session, g.options)


@diagnostics.post(
    "/context_manager_safety/concurrent_streams", responses=answers(200, models.ConcurrentStreamsFindings)
)
@route_options(operators="in production")
def concurrent_streams() -> Answer:
    """Whether three streams at once on one session keep to their own rows."""
    return probes.stream_concurrently(g.session, g.options)


@diagnostics.post("/context_manager_safety/nested_contexts", responses=answers(200, models.NestedContextsFindings))
@route_options(operators="in production")
def nested_contexts() -> Answer:
    """Whether a cluster, a session and a stream of their own close inside out, each by itself."""
    return probes.nest_contexts(g.session, g.options)


@diagnostics.post("/context_manager_safety/cancellation", responses=answers(200, models.CancellationFindings))
@route_options(operators="in production")
def cancellation() -> Answer:
    """Whether a stream that is closed midway ends, and its session goes on."""
    return probes.cancel_stream(g.session, g.options)


@diagnostics.get("/context_manager_safety/status", responses=answers(200, models.ConnectionStatus))
@route_options(operators="in production", session=False)
def status() -> Answer:
    """Session and cluster of the worker that answers. Asks nobody else."""
    return probes.connection_status()
