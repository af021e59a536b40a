"""Refresh tokens: each is used once and replaced by its successor (RFC 9700, 4.14.2).

A token is the id of its family and its generation, signed. The signature is deterministic, so that the successor of a
token is the same text in every instance, and the database holds no token.
"""

from __future__ import annotations

import hashlib
import logging
import re
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from itsdangerous import BadSignature, Signer
from itsdangerous.encoding import base64_decode, base64_encode

from auth.access_tokens import derived_key
from auth.accounts import narrowed, scopes_of
from settings import Settings
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_io import accounts, refresh_tokens
from storage.db_io.accounts import Account
from storage.db_io.refresh_tokens import Family

log = logging.getLogger(__name__)

# For these seconds after its use, a token returns the same successor again: the client may have lost the response, or
# two tabs of a browser use the token at once. A later use means that somebody may have copied the token.
REUSE_WINDOW = 10

# 20 bytes of family and generation and 48 bytes of signature. The form is checked, because the decoder of base64 skips
# invalid characters. The last character of 20 bytes has two unused bits, so several texts can have the same bytes; the
# signature is that of the text.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{27}\.[A-Za-z0-9_-]{64}")


class InvalidRefreshToken(Exception):
    """The refresh token is malformed, expired or revoked. The message contains no part of the token."""

    def __init__(self) -> None:
        super().__init__("The refresh token is not valid, has expired or was revoked. Sign in again.")


class Refreshed(NamedTuple):
    """The result of a use of a refresh token.

    :ivar scopes: of the new access token.
    :ivar token: the successor; None if the same refresh token stays valid.
    """

    account: Account
    scopes: frozenset[str]
    token: str | None


class RefreshTokens:
    """Issues, rotates and revokes refresh tokens."""

    def __init__(self, settings: Settings) -> None:
        """Derive the keys from SECRET_KEY and SECRET_KEY_PREVIOUS."""
        self._lifetime = settings.refresh_token_lifetime
        # The last one signs, and all verify.
        keys = [derived_key(key, "refresh tokens") for key in settings.signing_keys]
        self._signer = Signer(keys, key_derivation="none", digest_method=hashlib.sha384)

    def issue(self, session: Session, account: Account, scopes: frozenset[str] | None, options: QueryOptions) -> str:
        """The first token of a new family.

        :param scopes: the scopes that the client asked for; None for all scopes of the account.
        """
        family = Family(
            family=uuid4(),
            email=account.email,
            account_id=account.id,
            credentials=account.credentials,
            scopes=scopes,
            generation=1,
            rotated_at=datetime.now(UTC),
        )
        refresh_tokens.create_family(session, family, self._lifetime, options)
        return self._text(family.family, family.generation)

    def refresh(
        self,
        session: Session,
        token: str,
        requested: frozenset[str] | None,
        options: QueryOptions,
        *,
        rotate: bool = True,
    ) -> Refreshed:
        """Use a token.

        :param requested: the scopes that the client asks for; None for those of its sign-in.
        :param rotate: replace the token by its successor; if false, nothing is written.
        :raises InvalidRefreshToken: the token is malformed, expired or revoked, or its account is disabled.
        :raises ScopeNotGranted: a requested scope is not one of the account and of the sign-in.
        """
        family_id, generation = self._parse(token)
        family = refresh_tokens.find_family(session, family_id, options)
        if family is None:
            raise InvalidRefreshToken
        account = accounts.find_account(session, family.email, options)
        if (
            account is None
            or account.id != family.account_id
            or account.disabled
            or account.credentials != family.credentials
        ):
            raise InvalidRefreshToken
        scopes = scopes_of(account)
        if family.scopes is not None:
            scopes &= family.scopes
        scopes = narrowed(scopes, requested)
        if not rotate:
            if family.generation != generation:
                raise InvalidRefreshToken
            return Refreshed(account, scopes, None)
        # If the read was stale, the transaction finds the current generation.
        if family.generation <= generation:
            now = datetime.now(UTC)
            family = refresh_tokens.rotate_family(session, family, generation, now, self._lifetime, options)
            if family is None:
                raise InvalidRefreshToken
        if family.generation != generation + 1 or _age(family) > REUSE_WINDOW:
            refresh_tokens.delete_family(session, family_id, options)
            log.warning("a refresh token of account %s was used again: its tokens are revoked", account.id)
            raise InvalidRefreshToken
        return Refreshed(account, scopes, self._text(family_id, family.generation))

    def revoke(self, session: Session, token: str, options: QueryOptions) -> None:
        """Revoke the family of a token, if it is a refresh token of this service."""
        try:
            family_id, _ = self._parse(token)
        except InvalidRefreshToken:
            return
        refresh_tokens.delete_family(session, family_id, options)

    def _text(self, family: UUID, generation: int) -> str:
        return self._signer.sign(base64_encode(family.bytes + generation.to_bytes(4, "big"))).decode()

    def _parse(self, token: str) -> tuple[UUID, int]:
        if not _TOKEN.fullmatch(token):
            raise InvalidRefreshToken
        try:
            data = base64_decode(self._signer.unsign(token))
        except BadSignature:
            raise InvalidRefreshToken from None
        return UUID(bytes=data[:16]), int.from_bytes(data[16:], "big")


def _age(family: Family) -> float:
    """Seconds since the valid token of the family was issued."""
    # Cassandra's times have no time zone.
    return (datetime.now(UTC) - family.rotated_at.replace(tzinfo=UTC)).total_seconds()
