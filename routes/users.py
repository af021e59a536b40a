"""Users. The version of a user is its ETag.

docs/transactions.md explains how users are written.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import orjson
from flask import Response, g, request
from werkzeug.exceptions import BadRequest
from werkzeug.http import parse_etags

from routes.blueprint import Blueprint
from schemas.base import InvalidInput
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
from storage.db_io import users
from storage.db_io.cluster import paging_scope
from storage.db_io.idempotency import IdempotencyKey
from web import pagination
from web.media_types import STREAM_TYPES
from web.openapi import responses
from web.responses import ResponseValue, location
from web.route_options import route_options
from web.streaming import stream_response

blueprint = Blueprint(
    "users",
    __name__,
    sample_path="/users",
    example="{url}/users -H 'Content-Type: application/json' "
    """-d '{"name": "Ada", "email": "ada@example.org", "age": 36}'""",
)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

# Without a comma, because servers join two headers of the same name with a comma.
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,255}")

# Proxies that compress change the ETag: nginx prepends W/, which parse_etags drops; Apache and others append a suffix.
_PROXY_SUFFIX = re.compile(r"[-;:](gzip|br|zstd|deflate)$")

# Scope of idempotency keys: without sign-in all clients are one caller.
_CALLER = "anonymous"


@blueprint.post("/users", responses=responses(201, User, 409, headers=("Location", "ETag")))
def post_user(body: NewUser) -> ResponseValue:
    """Create a user. With an `Idempotency-Key`, retries within 24 hours create no second user."""
    (user,) = _create([body])
    return _document(user), 201, {**location("users.get_user", id=str(user.id)), **_etag(user)}


@blueprint.get("/users", responses=responses(200, User, 400, many=True, headers=("Link",)))
def list_users(query: UserListQuery) -> ResponseValue:
    """One page of users, in token order. The `Link` header has the next page."""
    scope = f"users {paging_scope(g.session)}"
    state = pagination.verify(query.page_state, scope)
    page = users.retrieve_users_page(g.session, query.limit, None, state, g.options)
    next_state = pagination.sign(page.paging_state, scope)
    headers = {}
    if next_state is not None:
        parameters = urlencode({"limit": query.limit, "page_state": next_state})
        headers["Link"] = f'<{request.script_root}{request.path}?{parameters}>; rel="next"'
    return list(map(orjson.Fragment, page.rows)), 200, headers


@blueprint.get("/users/stream", responses=responses(200, User, many=True, stream=True))
@route_options(produces=STREAM_TYPES, stream=True)
def stream_users(query: UserStreamQuery) -> Response:
    """Users as a stream, in token order; `limit` has no upper bound."""
    return stream_response(users.stream_users(g.session, query.limit, query.fetch_size, query.age_filter, g.options))


@blueprint.get("/users/stream/pages", responses=responses(200, UsersPage, 400))
def page_users(query: UserPageQuery) -> ResponseValue:
    """One page of users, in token order. The body has the `page_state` of the next page."""
    scope = f"users/stream/pages age_filter={query.age_filter} {paging_scope(g.session)}"
    state = pagination.verify(query.page_state, scope)
    page = users.retrieve_users_page(g.session, query.fetch_size, query.age_filter, state, g.options)
    return {
        "users": list(map(orjson.Fragment, page.rows)),
        "has_more": page.paging_state is not None,
        "page_state": pagination.sign(page.paging_state, scope),
    }


@blueprint.post("/users/batch", responses=responses(201, UsersCreated, 409))
def post_users(body: UserBatch) -> ResponseValue:
    """Create 1 to 100 users: all or none.

    Not isolated: a reader may see some of the users before the others.
    """
    created = _create(body.root)
    return {"created": len(created), "users": [_document(user) for user in created]}, 201


@blueprint.get("/users/<id>", responses=responses(200, User, 304, 400, 404, headers=("ETag",)))
def get_user(path: UserPath) -> ResponseValue:
    """One user."""
    user = users.retrieve_user(g.session, _uuid(path.id), g.options)
    known = _versions("If-None-Match")
    if known is not None and user.version in known:
        return "", 304, _etag(user)
    return _document(user), 200, _etag(user)


@blueprint.put("/users/<id>", responses=responses(200, User, 404, 412, headers=("ETag",)))
def put_user(path: UserPath, body: NewUser) -> ResponseValue:
    """Replace name, email and age of a user."""
    return _update(path.id, body.model_dump())


@blueprint.patch("/users/<id>", responses=responses(200, User, 404, 412, headers=("ETag",)))
def patch_user(path: UserPath, body: UserChanges) -> ResponseValue:
    """Change some or all of name, email and age. A deleted user stays deleted."""
    return _update(path.id, body.model_dump(exclude_unset=True))


@blueprint.delete("/users/<id>", responses=responses(204, None, 400, 412))
def delete_user(path: UserPath) -> ResponseValue:
    """Delete a user, if it exists; with `If-Match`, only if it is at that version."""
    users.delete_user(g.session, _uuid(path.id), _versions("If-Match"), g.options)
    return "", 204


def _create(bodies: list[NewUser]) -> Sequence[users.User]:
    new_users = [users.new_user(body.model_dump()) for body in bodies]
    key = request.headers.get("Idempotency-Key")
    if key is None:
        users.create_users(g.session, new_users, g.options)
        return new_users
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput.at(
            "header", "Idempotency-Key", "Input should be 1 to 255 visible ASCII characters without a comma"
        )
    # The fingerprint is of the validated values, so white space and the order of fields make no difference.
    canonical = orjson.dumps([body.model_dump() for body in bodies], option=orjson.OPT_SORT_KEYS)
    scope = f"{_CALLER} {request.method} {request.url_rule}"
    g.idempotency_key = IdempotencyKey(scope, key, sha256(canonical).digest())
    return users.create_users_once(g.session, g.idempotency_key, new_users, g.options)


def _update(user_id: str, changes: dict[str, Any]) -> ResponseValue:
    accepted = _versions("If-Match")
    user = users.update_user(g.session, _uuid(user_id), changes, accepted, g.options)
    return _document(user), 200, _etag(user)


def _uuid(text: str) -> UUID:
    # Only the canonical form: UUID() also accepts braces, URNs and missing hyphens.
    if not _UUID.fullmatch(text):
        raise BadRequest("Invalid UUID: it must have 8-4-4-4-12 hexadecimal digits")
    return UUID(text)


def _document(user: users.User) -> dict[str, Any]:
    document = user._asdict()
    # The client receives the version as the ETag.
    del document["version"]
    return document


def _etag(user: users.User) -> dict[str, str]:
    return {"ETag": f'"{user.version.hex}"'}


class _AnyVersion(Container[UUID]):
    def __contains__(self, version: object) -> bool:
        return True


def _versions(header: str) -> Container[UUID] | None:
    """The versions in a conditional header; None if the request does not have it.

    :param header: `If-Match` or `If-None-Match`.
    """
    value = request.headers.get(header)
    if value is None:
        return None
    etags = parse_etags(value)
    if etags.star_tag:
        return _AnyVersion()
    versions = set()
    for tag in etags.as_set(include_weak=True):
        try:
            # Werkzeug returns None for an empty tag.
            versions.add(UUID(hex=_PROXY_SUFFIX.sub("", tag or "")))
        except ValueError:
            # The service never issued this tag, so it matches nothing.
            continue
    return versions
