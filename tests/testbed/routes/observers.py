"""Observers. The version of an observer is its ETag.

docs/transactions.md explains how observers are written.
"""

from __future__ import annotations

from typing import Any

from flask import Response, g

from routes.blueprint import Blueprint
from routes.resource import Resource
from storage.cql import Page
from storage.db_io.cluster import paging_scope
from tests.testbed.db_io import observers
from tests.testbed.schemas.observers import (
    NewObserver,
    Observer,
    ObserverBatch,
    ObserverChanges,
    ObserverListQuery,
    ObserverPageQuery,
    ObserverPath,
    ObserversCreated,
    ObserversPage,
    ObserverStreamQuery,
)
from web import pagination, versions
from web.idempotency import create_rows
from web.media_types import STREAM_TYPES
from web.openapi import responses
from web.responses import ResponseValue, location
from web.route_options import route_options
from web.streaming import stream_response
from web.uuids import parse_uuid

RESOURCE = Resource(
    observers.TABLE,
    schema=Observer,
    path="/observers",
    operations=("create", "read", "list", "stream", "batch", "replace", "change", "delete", "import"),
    new=NewObserver,
    sample_path="/observers",
)
blueprint = Blueprint("observers", __name__, resource=RESOURCE)


@blueprint.post("/observers", responses=responses(201, Observer, 409, headers=("Location", "ETag")))
def post_observer(body: NewObserver) -> ResponseValue:
    """Create an observer. With an `Idempotency-Key`, retries within 24 hours create no second observer."""
    (observer,) = create_rows(observers.TABLE, [body])
    headers = location("observers.get_observer", id=observer.id) | versions.etag(observer.version)
    return observers.TABLE.document(observer), 201, headers


@blueprint.get("/observers", responses=responses(200, Observer, many=True, stream=True, headers=("Link",)))
@route_options(produces=STREAM_TYPES)
def list_observers(query: ObserverListQuery) -> Response:
    """One page of observers, in token order. The `Link` header has the next page."""
    page = observers.retrieve_observers_page(g.session, query.limit, pagination.requested_paging_state(), g.options)
    return pagination.page_response(page, observers.TABLE.public_columns)


@blueprint.get("/observers/stream", responses=responses(200, Observer, many=True, stream=True))
@route_options(produces=STREAM_TYPES, stream=True)
def stream_observers(query: ObserverStreamQuery) -> Response:
    """Observers as a stream, in token order; `limit` has no upper bound."""
    return stream_response(observers.stream_observers(g.session, query.limit, query.fetch_size, g.options))


@blueprint.get("/observers/stream/pages", responses=responses(200, ObserversPage))
def page_observers(query: ObserverPageQuery) -> ResponseValue:
    """One page of observers, in token order. The body has the `page_state` of the next page."""

    def read(fetch_size: int, paging_state: bytes | None) -> Page:
        return observers.retrieve_observers_page(g.session, fetch_size, paging_state, g.options)

    return pagination.walk_page("observers", query, f"observers/stream/pages {paging_scope(g.session)}", read)


@blueprint.post("/observers/batch", responses=responses(201, ObserversCreated, 409))
@route_options(scope="operator")
def post_observers(body: ObserverBatch) -> ResponseValue:
    """Create 1 to 100 observers: all or none.

    Not isolated: a reader may see some of the observers before the others.
    """
    created = create_rows(observers.TABLE, body.root)
    return {"created": len(created), "observers": list(map(observers.TABLE.document, created))}, 201


@blueprint.get("/observers/<id>", responses=responses(200, Observer, 304, 404, headers=("ETag",)))
def get_observer(path: ObserverPath) -> ResponseValue:
    """One observer."""
    observer = observers.TABLE.retrieve(g.session, parse_uuid(path.id), g.options)
    if versions.is_known(observer.version):
        return "", 304, versions.etag(observer.version)
    return observers.TABLE.document(observer), 200, versions.etag(observer.version)


@blueprint.put("/observers/<id>", responses=responses(200, Observer, 404, 412, headers=("ETag",)))
def put_observer(path: ObserverPath, body: NewObserver) -> ResponseValue:
    """Replace all fields of an observer."""
    return _update(path.id, dict(body))


@blueprint.patch("/observers/<id>", responses=responses(200, Observer, 404, 412, headers=("ETag",)))
def patch_observer(path: ObserverPath, body: ObserverChanges) -> ResponseValue:
    """Change some or all fields of an observer. A deleted observer stays deleted."""
    return _update(path.id, {field: getattr(body, field) for field in body.model_fields_set})


@blueprint.delete("/observers/<id>", responses=responses(204, None, 412))
def delete_observer(path: ObserverPath) -> ResponseValue:
    """Delete an observer, if it exists; with `If-Match`, only if it is at that version."""
    observers.TABLE.delete(g.session, parse_uuid(path.id), versions.accepted(), g.options)
    return "", 204


def _update(observer_id: str, changes: dict[str, Any]) -> ResponseValue:
    observer = observers.TABLE.update(g.session, parse_uuid(observer_id), changes, versions.accepted(), g.options)
    return observers.TABLE.document(observer), 200, versions.etag(observer.version)
