"""The service itself: where to begin, whether it works, what it offers. None of it needs a database that is up."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, cast

import orjson
from flask import Response, current_app, g, render_template, request, send_from_directory, url_for
from flask_openapi3 import APIBlueprint, OpenAPI, Tag
from werkzeug.exceptions import NotImplemented as NotImplementedByServer

from observability import metrics
from schemas import models
from server.graceful_shutdown import can_stop, draining, stop
from settings import get_settings
from storage import db_connect, db_io
from storage.errors import StorageError, StorageTimeout
from web import openapi
from web.hooks import HTML, JSON, route_options
from web.openapi import answers
from web.responses import Answer

VERSION = "0.1.0"

# Seconds in which /health answers in any case.
_HEALTH_TIMEOUT = 1.5

METRICS_TYPES = (JSON, "text/plain", "application/openmetrics-text")

_SWAGGER_UI = str(files("flask_swagger_ui") / "dist")

operations = APIBlueprint("operations", __name__, abp_tags=[Tag(name="service")])


@operations.get("/", responses=answers(200, models.Home, html=True))
@route_options(produces=(JSON, HTML), session=False)
def home() -> Answer:
    """Where to begin."""
    links = {
        "message": "Fieldbook: animals, plants and the people who see them",
        "version": VERSION,
        "docs": url_for("operations.docs"),
        "openapi": url_for("operations.openapi_json"),
        "health": url_for("operations.health"),
        "metrics": url_for("operations.get_metrics"),
        "resources": {
            "animals": url_for("animals.list_animals", genus="Vulpes"),
            "plants": url_for("plants.list_plants", genus="Quercus"),
            "users": url_for("users.list_users"),
        },
    }
    if g.media_type == HTML:
        return Response(render_template("home.html", links=links), content_type="text/html; charset=utf-8")
    return links


@operations.get(
    "/health",
    responses=answers(200, models.Health, 504) | answers(503, models.Health),
)
@route_options(session=False)
def health() -> Answer:
    """Whether Cassandra can be queried, and the instance is not about to stop. Answers within 2 seconds."""
    limit = time.monotonic() + _HEALTH_TIMEOUT
    # Whether Cassandra works, and not whether this request's level does.
    options = replace(g.options, deadline=min(g.options.deadline, limit), consistency_level=None)
    nodes = db_io.ClusterStatus(up=0, down=0)
    try:
        session = db_connect.get_session(options.remaining())
        nodes = db_io.count_nodes(session)
        nodes = db_io.retrieve_cluster_status(session, options)
        if draining():
            return _health("draining", "connected", nodes), 503
        return _health("healthy", "connected", nodes), 200
    except StorageError as error:
        if isinstance(error, StorageTimeout) and g.options.deadline < limit and "X-Request-Timeout" in request.headers:
            raise
        return _health("unhealthy", "disconnected", nodes), 503


def _health(status: str, cassandra: str, nodes: db_io.ClusterStatus) -> dict[str, object]:
    return {
        "status": status,
        "cassandra": cassandra,
        "keyspace": get_settings().cassandra_keyspace,
        "nodes": nodes._asdict(),
        "timestamp": datetime.now(UTC),
    }


@operations.get("/health/live", responses=answers(200, models.Live))
@route_options(session=False)
def live() -> Answer:
    """Whether the process serves. Asks nobody else."""
    return {"status": "alive"}


@operations.get("/metrics", responses=answers(200, models.Metrics, text=METRICS_TYPES[1:]))
@route_options(produces=METRICS_TYPES, session=False)
def get_metrics() -> Answer:
    """What was counted, over all workers: a summary in JSON, or all of it for Prometheus."""
    if g.media_type == JSON:
        return metrics.summary()
    content_type, text = metrics.exposition(g.media_type)
    return Response(text, content_type=content_type)


@operations.post("/shutdown", responses=answers(202, models.Message, 501))
@route_options(session=False, operators="everywhere")
def shutdown() -> Answer:
    """Drain and stop this instance, all its workers. For operators."""
    if not can_stop():
        raise NotImplementedByServer("The server that runs this service can't be stopped from here.")
    seconds = stop()
    draining_first = f"for {seconds:g} s /health says 503 and all is served, then " if seconds else ""
    return {"message": f"Shutdown initiated: {draining_first}what is in flight is finished."}, 202


@operations.get("/openapi.json", responses={200: {"description": "This document", "content": {JSON: {}}}})
@route_options(session=False)
def openapi_json() -> Response:
    """The contract, as OpenAPI 3.1."""
    return Response(_document(cast(Any, current_app)._get_current_object()), content_type=JSON)


@cache
def _document(app: OpenAPI) -> bytes:
    return orjson.dumps(openapi.document(app))


@operations.get("/docs", responses=answers(200, None, html=True))
@route_options(produces=(HTML,), session=False)
def docs() -> Response:
    """The contract, to read and to try out. Needs no internet."""
    return Response(render_template("docs.html"), content_type="text/html; charset=utf-8")


@operations.get("/docs/<filename>", doc_ui=False)
@route_options(produces=(), session=False)
def docs_file(path: models.FilePath) -> Response:
    """The script and style of the page above, from the flask-swagger-ui package."""
    return send_from_directory(_SWAGGER_UI, path.filename, max_age=3600)
