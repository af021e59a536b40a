"""`page_state`: Cassandra's paging state, signed for the query that made it, for a day."""

from __future__ import annotations

import hashlib

from itsdangerous import BadSignature, SignatureExpired, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode
from werkzeug.exceptions import BadRequest

LIFETIME = 24 * 3600


class PageTokens:
    """Makes and checks tokens. They are URL-safe text.

    :param key: the secret of all workers and instances.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, paging_state: bytes | None, query: str) -> str | None:
        """The token for what follows a page; None after the last one.

        :param query: names the query and its filters; the token is good for no other.
        """
        if paging_state is None:
            return None
        return self._signer(query).sign(base64_encode(paging_state)).decode()

    def verify(self, token: str | None, query: str) -> bytes | None:
        """The paging state in a token; None for no token.

        :raises BadRequest: changed, expired, or made for another query.
        """
        if token is None:
            return None
        try:
            return base64_decode(self._signer(query).unsign(token, max_age=LIFETIME))
        except SignatureExpired:
            raise BadRequest("page_state has expired: begin again without it") from None
        except BadSignature:
            raise BadRequest("Invalid page_state: it is not one that this query was given") from None

    def _signer(self, query: str) -> TimestampSigner:
        # 384 bits fill their base64 digits, so that no two texts of a signature mean the same.
        return TimestampSigner(self._key, salt=f"page_state {query}", key_derivation="hmac", digest_method=hashlib.sha384)
