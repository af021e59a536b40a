"""Users. The version of a user is its ETag.

docs/transactions.md explains how users are written.
"""

from __future__ import annotations

from typing import Any

from flask import Response, g

from routes.blueprint import Blueprint
from routes.resource import Resource
from schemas.users import (
    NewUser,
    User,
    UserBatch,
    UserChanges,
    UserListQuery,
    UserPageQuery,
    UserPath,
    UsersCreated,
    UsersPage,
    UserStreamQuery,
)
from storage.cql import Page
from storage.db_io import users
from storage.db_io.cluster import paging_scope
from web import pagination, versions
from web.idempotency import create_rows
from web.media_types import STREAM_TYPES
from web.openapi import responses
from web.responses import ResponseValue, location
from web.route_options import route_options
from web.streaming import stream_response
from web.uuids import parse_uuid

RESOURCE = Resource(
    users.TABLE,
    schema=User,
    path="/users",
    new=NewUser,
    operations=("create", "read", "list", "stream", "batch", "replace", "change", "delete", "import"),
    sample_path="/users",
    example="{url}/users -H 'Content-Type: application/json' "
    """-d '{"name": "Ada", "email": "ada@example.org", "age": 36}'""",
)
blueprint = Blueprint("users", __name__, resource=RESOURCE)


@blueprint.post("/users", responses=responses(201, User, 409, headers=("Location", "ETag")))
def post_user(body: NewUser) -> ResponseValue:
    """Create a user. With an `Idempotency-Key`, retries within 24 hours create no second user."""
    (user,) = create_rows(users.TABLE, [body])
    return users.TABLE.document(user), 201, location("users.get_user", id=user.id) | versions.etag(user.version)


@blueprint.get("/users", responses=responses(200, User, many=True, headers=("Link",)))
@route_options(private=True)
def list_users(query: UserListQuery) -> Response:
    """One page of users, in token order. The `Link` header has the next page."""
    state = pagination.requested_paging_state()
    page = users.retrieve_users_page(g.session, query.limit, None, state, g.options)
    return pagination.page_response(page, users.TABLE.public_columns)


@blueprint.get("/users/stream", responses=responses(200, User, many=True, stream=True))
@route_options(produces=STREAM_TYPES, stream=True, private=True)
def stream_users(query: UserStreamQuery) -> Response:
    """Users as a stream, in token order; `limit` has no upper bound."""
    return stream_response(users.stream_users(g.session, query.limit, query.fetch_size, query.age_filter, g.options))


@blueprint.get("/users/stream/pages", responses=responses(200, UsersPage))
@route_options(private=True)
def page_users(query: UserPageQuery) -> ResponseValue:
    """One page of users, in token order. The body has the `page_state` of the next page.

    `limit` is the total number of users over all pages. Later requests may leave it out, but not change it.
    """

    def read(fetch_size: int, paging_state: bytes | None) -> Page:
        return users.retrieve_users_page(g.session, fetch_size, query.age_filter, paging_state, g.options)

    scope = f"users/stream/pages age_filter={query.age_filter} {paging_scope(g.session)}"
    return pagination.walk_page("users", query, scope, read)


@blueprint.post("/users/batch", responses=responses(201, UsersCreated, 409))
@route_options(scope="operator")
def post_users(body: UserBatch) -> ResponseValue:
    """Create 1 to 100 users: all or none.

    Not isolated: a reader may see some of the users before the others.
    """
    created = create_rows(users.TABLE, body.root)
    return {"created": len(created), "users": list(map(users.TABLE.document, created))}, 201


@blueprint.get("/users/<id>", responses=responses(200, User, 304, 404, headers=("ETag",)))
@route_options(private=True)
def get_user(path: UserPath) -> ResponseValue:
    """One user."""
    user = users.TABLE.retrieve(g.session, parse_uuid(path.id), g.options)
    if versions.is_known(user.version):
        return "", 304, versions.etag(user.version)
    return users.TABLE.document(user), 200, versions.etag(user.version)


@blueprint.put("/users/<id>", responses=responses(200, User, 404, 412, headers=("ETag",)))
def put_user(path: UserPath, body: NewUser) -> ResponseValue:
    """Replace name, email and age of a user."""
    return _update(path.id, dict(body))


@blueprint.patch("/users/<id>", responses=responses(200, User, 404, 412, headers=("ETag",)))
def patch_user(path: UserPath, body: UserChanges) -> ResponseValue:
    """Change some or all of name, email and age. A deleted user stays deleted."""
    return _update(path.id, {name: getattr(body, name) for name in body.model_fields_set})


@blueprint.delete("/users/<id>", responses=responses(204, None, 412))
def delete_user(path: UserPath) -> ResponseValue:
    """Delete a user, if it exists; with `If-Match`, only if it is at that version."""
    users.TABLE.delete(g.session, parse_uuid(path.id), versions.accepted(), g.options)
    return "", 204


def _update(user_id: str, changes: dict[str, Any]) -> ResponseValue:
    user = users.TABLE.update(g.session, parse_uuid(user_id), changes, versions.accepted(), g.options)
    return users.TABLE.document(user), 200, versions.etag(user.version)
