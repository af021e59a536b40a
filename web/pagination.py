"""`page_state`: Cassandra's paging state, signed for one query, valid for 24 hours."""

from __future__ import annotations

import hashlib
import re

from itsdangerous import BadSignature, SignatureExpired, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode
from werkzeug.exceptions import BadRequest

from web.dependencies import current_settings

# Seconds.
LIFETIME = 24 * 3600

# Paging state, time and signature. Only one text is valid for each token: the form is checked, because the base64
# decoder skips invalid characters, and the 384 bits of the signature fill 64 characters without unused bits.
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{64}")

_INVALID = "Invalid page_state: it was not issued for this query"


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
