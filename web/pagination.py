"""Pages of a list.

`page_state` is Cassandra's paging state, signed for one query and valid for 24 hours. A walk is a sequence of requests,
each with the `page_state` of the previous response. In a walk with a `limit`, `page_state` also has that limit and the
number of rows that are left.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import orjson
from flask import Response, g, request
from itsdangerous import BadSignature, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode
from werkzeug.exceptions import BadRequest

from storage.cql import KeyRange, Page, Stream
from storage.db_io.cluster import paging_scope
from web.dependencies import current_settings
from web.streaming import whole_response

# Seconds.
LIFETIME = 24 * 3600
# Seconds that the clock of the instance that signed a token may be ahead of the clock of this instance.
CLOCK_SKEW = 300

# Limit and rows left (in a walk with a limit only), paging state, time and signature. Only one text is valid for each
# token: the form is checked, because the base64 decoder skips invalid characters, and the 384 bits of the signature
# fill 64 characters without unused bits.
_TOKEN = re.compile(r"([0-9]{1,20}\.[0-9]{1,20}\.)?[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{64}")

_INVALID = "Invalid page_state: it was not issued for this query"


def key_range(query: Any) -> KeyRange:
    """The range and order in the query parameters `from`, `to` and `order` of a list."""
    return KeyRange(query.from_, query.to, None if query.order is None else query.order == "desc")


def requested_paging_state() -> bytes | None:
    """The paging state in the request's `page_state`; None without one.

    :raises BadRequest: the token was changed, has expired, or was issued for another query.
    """
    token = request.args.get("page_state")
    return None if token is None else verify(token, _scope())


def page_response(page: Page, columns: tuple[str, ...]) -> Response:
    """One page of rows in the format that the client accepts, with a `Link` to the next page.

    :param page: rows as JSON.
    :param columns: names of the columns of the rows.
    """
    response = whole_response(Stream((rows for rows in [page.rows] if rows), columns))
    add_link(response, page.paging_state)
    return response


def add_link(response: Response, paging_state: bytes | None) -> None:
    """Add a `Link` to the next page, unless this is the last one."""
    if paging_state is not None:
        parameters = urlencode({**request.args, "page_state": sign(paging_state, _scope())})
        response.headers["Link"] = f'<{quote(request.script_root + request.path)}?{parameters}>; rel="next"'


def _scope() -> str:
    """The query that a token is valid for: path, parameters and paging scope of the cluster.

    `limit` and `page_state` are left out, because they may differ from page to page.
    """
    parameters = sorted(pair for pair in request.args.items() if pair[0] not in ("limit", "page_state"))
    return f"{request.path} {parameters} {paging_scope(g.session)}"


class Limit(NamedTuple):
    """The limit of a walk.

    :ivar total: number of rows over all pages.
    :ivar left: how many of them are left.
    """

    total: int
    left: int


def walk_page(name: str, query: Any, scope: str, read: Callable[[int, bytes | None], Page]) -> dict[str, Any]:
    """The document of one page of a walk: the rows, `has_more`, and the `page_state` of the next page.

    :param name: the field of the rows, for example `users`.
    :param query: with `limit`, `fetch_size` and `page_state`.
    :param scope: the query with its filters; a `page_state` is valid for this query only.
    :param read: returns at most the given number of rows as JSON, from a paging state.
    :raises BadRequest: `page_state` is invalid, has expired, or was issued for another query or limit.
    """
    paging_state, limit = _start(query, scope)
    if limit is None:
        page = read(query.fetch_size, paging_state)
    elif limit.left == 0:
        page = Page([], None)
    else:
        page = read(min(query.fetch_size, limit.left), paging_state)
        limit = limit._replace(left=limit.left - len(page.rows))
    token = None if limit is not None and limit.left == 0 else sign(page.paging_state, scope, limit)
    return {name: list(map(orjson.Fragment, page.rows)), "has_more": token is not None, "page_state": token}


def _start(query: Any, scope: str) -> tuple[bytes | None, Limit | None]:
    """The paging state and the limit with which a page of a walk begins."""
    if query.page_state is None:
        return None, None if query.limit is None else Limit(query.limit, query.limit)
    paging_state, limit = _verify(query.page_state, scope)
    if query.limit is not None and (limit is None or query.limit != limit.total):
        raise BadRequest("Invalid page_state: it was issued for another limit")
    return paging_state, limit


def sign(paging_state: bytes | None, query: str, limit: Limit | None = None) -> str | None:
    """The URL-safe token for the next page, or None after the last page.

    :param query: the query with its filters; the token is valid for this query only.
    :param limit: of a walk.
    """
    if paging_state is None:
        return None
    value = base64_encode(paging_state)
    if limit is not None:
        value = b"%d.%d.%s" % (*limit, value)
    return _signer(query).sign(value).decode()


def verify(token: str | None, query: str) -> bytes | None:
    """The paging state in a token; None without a token.

    :raises BadRequest: the token was changed, has expired, or was issued for another query.
    """
    return None if token is None else _verify(token, query)[0]


def _verify(token: str, query: str) -> tuple[bytes, Limit | None]:
    if not _TOKEN.fullmatch(token):
        raise BadRequest(_INVALID)
    try:
        value, signed_at = _signer(query).unsign(token, return_timestamp=True)
    except BadSignature:
        raise BadRequest(_INVALID) from None
    if not -CLOCK_SKEW <= time.time() - signed_at.timestamp() <= LIFETIME:
        raise BadRequest("page_state has expired: start again without it")
    *numbers, paging_state = value.split(b".")
    return base64_decode(paging_state), Limit(*map(int, numbers)) if numbers else None


def _signer(query: str) -> TimestampSigner:
    # Signs with the last key, and accepts all.
    keys = current_settings().signing_keys
    return TimestampSigner(keys, salt=f"page_state {query}", key_derivation="hmac", digest_method=hashlib.sha384)
