"""Finds: one partition per genus, rows ordered by species."""

from __future__ import annotations

from flask import Response, g

from routes.blueprint import Blueprint
from routes.resource import Resource
from schemas.base import Inserted
from tests.testbed.db_io import finds
from tests.testbed.schemas.finds import Find, FindPath, FindsPath, FindsQuery
from web.media_types import STREAM_TYPES
from web.openapi import responses
from web.pagination import key_range, page_response, requested_paging_state
from web.responses import ResponseValue, location
from web.route_options import route_options
from web.streaming import stream_response

RESOURCE = Resource(
    finds.TABLE,
    schema=Find,
    path="/find",
    operations=("create", "read", "list", "delete", "import"),
    sample_path="/find/Quercus",
)
blueprint = Blueprint("finds", __name__, resource=RESOURCE)


@blueprint.get("/find/<genus>", responses=responses(200, Find, many=True, stream=True, headers=("Link",)))
@route_options(produces=STREAM_TYPES, stream=True)
def list_finds(path: FindsPath, query: FindsQuery) -> Response:
    """The finds of a genus: all as a stream, or one page with `limit`.

    `from` (inclusive) and `to` (exclusive) limit species.
    """
    rows = key_range(query)
    if query.limit is None:
        return stream_response(finds.stream_finds(g.session, path.genus, rows, g.options))
    page = finds.retrieve_finds_page(g.session, path.genus, rows, query.limit, requested_paging_state(), g.options)
    return page_response(page, finds.TABLE.public_columns)


@blueprint.get("/find/<genus>/<species>", responses=responses(200, Find, 404))
def get_find(path: FindPath) -> ResponseValue:
    """One find."""
    return finds.TABLE.document(finds.retrieve_find(g.session, path.genus, path.species, g.options))


@blueprint.post("/find", responses=responses(201, Inserted, headers=("Location",)))
def post_find(body: Find) -> ResponseValue:
    """Insert or replace a find: the last write with the same genus and species wins."""
    finds.store_find(g.session, finds.Find(**dict(body)), g.options)
    return {"inserted": True}, 201, location("finds.get_find", genus=body.genus, species=body.species)


@blueprint.delete("/find/<genus>/<species>", responses=responses(204, None))
def delete_find(path: FindPath) -> ResponseValue:
    """Delete a find, if it exists."""
    finds.delete_find(g.session, path.genus, path.species, g.options)
    return "", 204
