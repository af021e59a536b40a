"""`page_state`: Cassandra's paging state, signed for the query that made it, for a day."""

from __future__ import annotations

import hashlib
import re

from itsdangerous import BadSignature, SignatureExpired, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode
from werkzeug.exceptions import BadRequest

from settings import get_settings

LIFETIME = 24 * 3600

# Paging state, time and signature. Decoding alone would pass over characters that are no base64, and the 384 bits of
# the signature fill its 64 digits: no two texts of a token mean the same.
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{64}")


def sign(paging_state: bytes | None, query: str) -> str | None:
    """The token for what follows a page; None after the last one. It is URL-safe text.

    :param query: names the query and its filters; the token is good for no other.
    """
    if paging_state is None:
        return None
    return _signer(query).sign(base64_encode(paging_state)).decode()


def verify(token: str | None, query: str) -> bytes | None:
    """The paging state in a token; None for no token.

    :raises BadRequest: changed, expired, or made for another query.
    """
    if token is None:
        return None
    if not _TOKEN.fullmatch(token):
        raise BadRequest("Invalid page_state: it is not one that this query was given")
    try:
        return base64_decode(_signer(query).unsign(token, max_age=LIFETIME))
    except SignatureExpired:
        raise BadRequest("page_state has expired: begin again without it") from None
    except BadSignature:
        raise BadRequest("Invalid page_state: it is not one that this query was given") from None


def check_key() -> None:
    """Makes the key of a development checkout, so that what is wrong with it shows at the start."""
    _signer("")


def _signer(query: str) -> TimestampSigner:
    key = get_settings().signing_key
    return TimestampSigner(key, salt=f"page_state {query}", key_derivation="hmac", digest_method=hashlib.sha384)
