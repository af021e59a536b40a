"""Pages of a list.

`page_state` is Cassandra's paging state, signed for one query and valid for 24 hours.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import quote, urlencode

from flask import Response, g, request
from itsdangerous import BadSignature, SignatureExpired, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode
from werkzeug.exceptions import BadRequest

from storage.cql import KeyRange, Page, Stream
from storage.db_io.cluster import paging_scope
from web.dependencies import current_settings
from web.streaming import whole_response

# Seconds.
LIFETIME = 24 * 3600

# Paging state, time and signature. Only one text is valid for each token: the form is checked, because the base64
# decoder skips invalid characters, and the 384 bits of the signature fill 64 characters without unused bits.
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{64}")

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
    if page.paging_state is not None:
        parameters = urlencode({**request.args, "page_state": sign(page.paging_state, _scope())})
        response.headers["Link"] = f'<{quote(request.script_root + request.path)}?{parameters}>; rel="next"'
    return response


def _scope() -> str:
    """The query that a token is valid for: path, parameters and paging scope of the cluster.

    `limit` and `page_state` are left out, because they may differ from page to page.
    """
    parameters = sorted(pair for pair in request.args.items() if pair[0] not in ("limit", "page_state"))
    return f"{request.path} {parameters} {paging_scope(g.session)}"


def sign(paging_state: bytes | None, query: str) -> str | None:
    """The URL-safe token for the next page, or None after the last page.

    :param query: the query with its filters; the token is valid for this query only.
    """
    if paging_state is None:
        return None
    return _signer(query).sign(base64_encode(paging_state)).decode()


def verify(token: str | None, query: str) -> bytes | None:
    """The paging state in a token; None without a token.

    :raises BadRequest: the token was changed, has expired, or was issued for another query.
    """
    if token is None:
        return None
    if not _TOKEN.fullmatch(token):
        raise BadRequest(_INVALID)
    try:
        return base64_decode(_signer(query).unsign(token, max_age=LIFETIME))
    except SignatureExpired:
        raise BadRequest("page_state has expired: start again without it") from None
    except BadSignature:
        raise BadRequest(_INVALID) from None


def _signer(query: str) -> TimestampSigner:
    key = current_settings().signing_key
    return TimestampSigner(key, salt=f"page_state {query}", key_derivation="hmac", digest_method=hashlib.sha384)
