"""Users: each has a version, which is its ETag. Their writes: docs/transactions.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import orjson
from flask import Response, g, request
from flask_openapi3 import APIBlueprint, Tag
from werkzeug.exceptions import BadRequest
from werkzeug.http import parse_etags

from schemas import models
from schemas.models import NewUser, UserBatch, UserChanges, UserListQuery, UserPageQuery, UserPath, UserStreamQuery
from storage import db_io
from storage.errors import UserNotFound
from web import pagination as paging
from web.errors import InvalidInput
from web.hooks import STREAM_TYPES, route_options
from web.openapi import answers
from web.responses import Answer, location
from web.streaming import stream_response

users = APIBlueprint("users", __name__, abp_tags=[Tag(name="users")])

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

# No comma: it is what joins two headers, which would make a key that is neither.
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,255}")

# What a compressing proxy adds to an ETag: nginx a W/ before it (which ETags leaves out), Apache and others a suffix.
_PROXY_SUFFIX = re.compile(r"[-;:](gzip|br|zstd|deflate)$")


@users.post("/users", responses=answers(201, models.User, 409, headers=("Location", "ETag")))
def post_user(body: NewUser) -> Answer:
    """Create a user; with an `Idempotency-Key`, once for all repeats within 24 hours."""
    (user,) = _create([body], lambda users: db_io.create_user(g.session, users[0], g.options))
    return _document(user), 201, {**location("users.get_user", id=str(user.id)), **_etag(user)}


@users.get("/users", responses=answers(200, models.User, 400, many=True, headers=("Link",)))
def list_users(query: UserListQuery) -> Answer:
    """Users, some at a time, in no order that means anything."""
    token_for = f"users {db_io.paging_scope(g.session)}"
    state = paging.verify(query.page_state, token_for)
    page = db_io.retrieve_users_page(g.session, query.limit, None, state, g.options)
    following = paging.sign(page.paging_state, token_for)
    headers = {}
    if following is not None:
        parameters = urlencode({"limit": query.limit, "page_state": following})
        headers["Link"] = f'<{request.script_root}{request.path}?{parameters}>; rel="next"'
    return list(map(orjson.Fragment, page.rows)), 200, headers


@users.get("/users/stream", responses=answers(200, models.User, many=True, stream=True))
@route_options(produces=STREAM_TYPES, stream=True)
def stream_users(query: UserStreamQuery) -> Response:
    """Users as a stream, however many."""
    rows = db_io.stream_users(g.session, query.limit, query.fetch_size, query.age_filter, g.options)
    return stream_response(rows, db_io.USER_COLUMNS)


@users.get("/users/stream/pages", responses=answers(200, models.UsersPage, 400))
def page_users(query: UserPageQuery) -> Answer:
    """Users, one page a call."""
    token_for = f"users/stream/pages age_filter={query.age_filter} {db_io.paging_scope(g.session)}"
    state = paging.verify(query.page_state, token_for)
    page = db_io.retrieve_users_page(g.session, query.fetch_size, query.age_filter, state, g.options)
    return {
        "users": list(map(orjson.Fragment, page.rows)),
        "has_more": page.paging_state is not None,
        "page_state": paging.sign(page.paging_state, token_for),
    }


@users.post("/users/batch", responses=answers(201, models.UsersCreated, 409))
def post_users(body: UserBatch) -> Answer:
    """Create 1 to 100 users, all or none. Not isolated: a reader may see a part of them meanwhile."""
    created = _create(body.root, lambda users: db_io.create_users(g.session, users, g.options))
    return {"created": len(created), "users": [_document(user) for user in created]}, 201


@users.get("/users/<id>", responses=answers(200, models.User, 304, 400, 404, headers=("ETag",)))
def get_user(path: UserPath) -> Answer:
    """One user."""
    user = db_io.retrieve_user(g.session, _uuid(path.id), g.options)
    if user is None:
        raise UserNotFound("User not found")
    unwanted = _versions("If-None-Match")
    if unwanted is not None and user.version in unwanted:
        return "", 304, _etag(user)
    return _document(user), 200, _etag(user)


@users.put("/users/<id>", responses=answers(200, models.User, 404, 412, headers=("ETag",)))
def put_user(path: UserPath, body: NewUser) -> Answer:
    """Replace name, email and age of a user."""
    return _update(path.id, body.model_dump())


@users.patch("/users/<id>", responses=answers(200, models.User, 404, 412, headers=("ETag",)))
def patch_user(path: UserPath, body: UserChanges) -> Answer:
    """Change some of name, email and age. A deleted user is never brought back."""
    return _update(path.id, body.model_dump(exclude_unset=True))


@users.delete("/users/<id>", responses=answers(204, None, 400, 412))
def delete_user(path: UserPath) -> Answer:
    """Delete a user, if there is one; with `If-Match`, only at that version."""
    db_io.delete_user(g.session, _uuid(path.id), _versions("If-Match"), g.options)
    return "", 204


def _create(bodies: list[NewUser], create: Callable[[Sequence[db_io.User]], None]) -> Sequence[db_io.User]:
    created = [db_io.new_user(body.model_dump()) for body in bodies]
    key = request.headers.get("Idempotency-Key")
    if key is None:
        create(created)
        return created
    if not _KEY.fullmatch(key):
        raise InvalidInput.at(
            "header", "Idempotency-Key", "Input should be 1 to 255 visible ASCII characters, none a comma"
        )
    # What was understood and not how it was written: the same users in other spacing are the same request.
    body = orjson.dumps([user.model_dump() for user in bodies], option=orjson.OPT_SORT_KEYS)
    scope = f"{g.caller} {request.method} {request.url_rule}"
    g.idempotency_key = db_io.IdempotencyKey(scope, key, sha256(body).digest())
    return db_io.create_users_once(g.session, g.idempotency_key, created, create, g.options)


def _update(user_id: str, changes: dict[str, Any]) -> Answer:
    accepted = _versions("If-Match")
    user = db_io.update_user(g.session, _uuid(user_id), changes, accepted, g.options)
    return _document(user), 200, _etag(user)


def _uuid(text: str) -> UUID:
    # In its one usual form: UUID() takes braces, URNs and spaces too.
    if not _UUID.fullmatch(text):
        raise BadRequest("Invalid UUID")
    return UUID(text)


def _document(user: db_io.User) -> dict[str, Any]:
    # Without the version, which is the ETag.
    return dict(zip(db_io.USER_COLUMNS, user, strict=False))


def _etag(user: db_io.User) -> dict[str, str]:
    return {"ETag": f'"{user.version.hex}"'}


class _AnyVersion(Container[UUID]):
    def __contains__(self, version: object) -> bool:
        return True


def _versions(header: str) -> Container[UUID] | None:
    """The versions that a condition names; None when the request has no such header."""
    value = request.headers.get(header)
    if value is None:
        return None
    etags = parse_etags(value)
    if etags.star_tag:
        return _AnyVersion()
    versions = set()
    for tag in etags.as_set(include_weak=True):
        try:
            # Werkzeug has None for an empty tag.
            versions.add(UUID(hex=_PROXY_SUFFIX.sub("", tag or "")))
        except ValueError:
            # Never one of ours, so it matches nothing.
            continue
    return versions
