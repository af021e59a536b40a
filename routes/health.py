"""Readiness and liveness."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from flask import g, request

from routes.blueprint import Blueprint
from schemas.service import Health, Live
from server.graceful_shutdown import is_draining
from storage.db_io import cluster
from storage.errors import StorageError, StorageTimeout
from web.dependencies import current_session, current_settings
from web.openapi import responses
from web.responses import ResponseValue
from web.route_options import route_options

# Seconds until /health stops waiting for Cassandra.
_TIMEOUT = 1.5

blueprint = Blueprint("health", __name__, tag="service")


@blueprint.get("/health", responses=responses(200, Health, 504) | responses(503, Health))
@route_options(session=False)
def health() -> ResponseValue:
    """Readiness: whether Cassandra can be queried and the instance is not draining.

    Answers within 2 seconds.
    """
    latest = time.monotonic() + _TIMEOUT
    # The default consistency level: the probe asks whether Cassandra answers, not whether this request's level works.
    options = replace(g.options, deadline=min(g.options.deadline, latest), consistency_level=None)
    nodes = cluster.ClusterStatus(up=0, down=0)
    try:
        session = current_session(options.remaining())
        nodes = cluster.count_nodes(session)
        cluster.retrieve_release_version(session, options)
        nodes = cluster.count_nodes(session)
    except StorageError as error:
        # The client asked for a shorter deadline: 504, as on every route.
        if isinstance(error, StorageTimeout) and g.options.deadline < latest and "X-Request-Timeout" in request.headers:
            raise
        return _health("unhealthy", "disconnected", nodes), 503
    if is_draining():
        return _health("draining", "connected", nodes), 503
    return _health("healthy", "connected", nodes), 200


def _health(status: str, cassandra: str, nodes: cluster.ClusterStatus) -> dict[str, object]:
    return {
        "status": status,
        "cassandra": cassandra,
        "keyspace": current_settings().cassandra_keyspace,
        "nodes": nodes._asdict(),
        "timestamp": datetime.now(UTC),
    }


@blueprint.get("/health/live", responses=responses(200, Live))
@route_options(session=False)
def live() -> ResponseValue:
    """Liveness: whether the process serves requests. Does not use Cassandra."""
    return {"status": "alive"}
