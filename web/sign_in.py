"""Sign-in: issue tokens for a password or a refresh token, and revoke them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import g
from pydantic import TypeAdapter, ValidationError

from auth import accounts
from auth.callers import ordered
from auth.passwords import Passwords
from auth.refresh_tokens import RefreshTokens
from schemas.auth import AccountEmail
from storage.cql import QueryOptions
from storage.db_io.accounts import Account, find_account
from web.access import current_tokens, invalid_token
from web.dependencies import current_settings
from web.rate_limits import limit_sign_in

_MAX_USERNAME = 254  # characters, as in an e-mail address

_email = TypeAdapter(AccountEmail)


def account_options() -> QueryOptions:
    """The options of queries for accounts and tokens."""
    # Ignore the client's consistency level: with ONE, a stale replica could accept a disabled account.
    return replace(g.options, consistency_level=None)


def current_passwords(options: QueryOptions) -> Passwords:
    """The hashes of passwords, with the settings of the current application."""
    return Passwords(current_settings(), options)


def current_account() -> Account:
    """The account of the caller, as it is stored now.

    :raises NotSignedIn: it was disabled after the token was issued.
    """
    account = find_account(g.session, g.caller.email, account_options())
    if account is None or account.id != g.caller.account_id or account.disabled:
        raise invalid_token("The account of this token is disabled.")
    return account


def sign_in(username: str, password: str, requested: frozenset[str] | None) -> dict[str, Any]:
    """An access token and a refresh token for the password of an account, as `POST /auth/token` returns them.

    In read-only mode there is no refresh token.

    :param requested: the scopes that the client asks for; None for all scopes of the account.
    :raises InvalidCredentials: there is no such account, it is disabled, or the password is wrong.
    :raises ScopeNotGranted: the account does not have a requested scope.
    :raises TooManyRequests: too many attempts for this account or from this address.
    """
    settings, options = current_settings(), account_options()
    email = _normalized(username)
    limit_sign_in(email)
    may_write = not settings.read_only
    account = accounts.sign_in(g.session, email, password, current_passwords(options), options, rehash=may_write)
    scopes = accounts.narrowed(accounts.scopes_of(account), requested)
    refresh_token = RefreshTokens(settings).issue(g.session, account, requested, options) if may_write else None
    return _tokens(account, scopes, refresh_token)


def refresh(refresh_token: str, requested: frozenset[str] | None) -> dict[str, Any]:
    """An access token and the successor of a refresh token.

    In read-only mode there is no successor, and the refresh token stays valid.

    :param requested: the scopes that the client asks for; None for those of its sign-in.
    :raises InvalidRefreshToken: the token is malformed, expired or revoked, or its account is disabled.
    :raises ScopeNotGranted: the account or its sign-in does not have a requested scope.
    """
    settings = current_settings()
    refreshed = RefreshTokens(settings).refresh(
        g.session, refresh_token, requested, account_options(), rotate=not settings.read_only
    )
    return _tokens(*refreshed)


def revoke(refresh_token: str) -> None:
    """Revoke a refresh token, if it is one of this service. Access tokens stay valid until they expire."""
    RefreshTokens(current_settings()).revoke(g.session, refresh_token, account_options())


def _tokens(account: Account, scopes: frozenset[str], refresh_token: str | None) -> dict[str, Any]:
    access_tokens = current_tokens()
    document = {
        "access_token": access_tokens.issue(account.id, account.email, scopes),
        "token_type": "Bearer",
        "expires_in": access_tokens.lifetime,
        "scope": " ".join(ordered(scopes)),
    }
    return document if refresh_token is None else {**document, "refresh_token": refresh_token}


def _normalized(username: str) -> str:
    """The normalized address; if the text is not an address, a key that no account has."""
    try:
        return _email.validate_python(username)
    except ValidationError:
        # Every address in the table has an @-sign, so a text without one matches no account.
        return username[:_MAX_USERNAME].lower().replace("@", " ")
