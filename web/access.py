"""Access control: who the caller is, and whether the caller may call the route.

Callers send `Authorization: Bearer` with an access token (`auth/access_tokens.py`) or with the OPERATOR_TOKEN.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import Literal

from flask import Flask, current_app, g, request
from werkzeug.exceptions import Forbidden, Unauthorized

from auth.access_tokens import AccessTokens, InvalidToken
from auth.callers import ANONYMOUS, OPERATOR, Caller, Scope
from settings import Settings
from web.route_options import RouteOptions

_TOKENS = "fieldbook.access_tokens"
# Characters. The access tokens of this service have about 500.
_MAX_TOKEN_LENGTH = 4096
# The value of `WWW-Authenticate` (RFC 6750, 3). Werkzeug's class for this header leaves out the quotation marks.
_CHALLENGE = 'Bearer realm="fieldbook"'


class NotSignedIn(Unauthorized):
    """The request has no token, or one that is not valid.

    :ivar challenge: the value of `WWW-Authenticate`.
    """

    def __init__(self, description: str, challenge: str) -> None:
        super().__init__(description)
        self.challenge = challenge


class InsufficientScope(Forbidden):
    """The caller has neither the scope nor the account that the route requires.

    :ivar challenge: the value of `WWW-Authenticate`.
    """

    def __init__(self, description: str, scope: Scope | None = None) -> None:
        super().__init__(description)
        self.challenge = f'{_CHALLENGE}, error="insufficient_scope"' + (f', scope="{scope}"' if scope else "")


class Access:
    """Identifies callers and applies the scopes of the routes."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        """Read the keys of access tokens.

        :raises SettingsError: the file TOKEN_KEYS is not valid.
        """
        self._settings = settings
        self._tokens = AccessTokens(settings)
        app.extensions[_TOKENS] = self._tokens

    def identify(self, route: RouteOptions) -> None:
        """Set `g.caller`. An invalid token raises no error here, so that rate limits also apply to the request."""
        g.caller = ANONYMOUS
        g.required_scope = route.required_scope(request.method, self._settings)
        # Open routes ignore the token, so that a client with an expired token can call them, for example /auth/token.
        if g.required_scope is None and (self._settings.sign_in == "off" or route.scope == "open"):
            return
        # Not request.authorization, which fails for some headers of other schemes.
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return
        try:
            g.caller = self._caller(token.strip())
        except InvalidToken as error:
            g.invalid_token = str(error)

    def _caller(self, token: str) -> Caller:
        operator_token = self._settings.operator_token
        if operator_token and hmac.compare_digest(token.encode(), operator_token.get_secret_value().encode()):
            return OPERATOR
        if len(token) > _MAX_TOKEN_LENGTH:
            raise InvalidToken("The access token is not valid.")
        return self._tokens.verify(token)

    def require_scope(self, route: RouteOptions) -> None:
        """Reject the request unless its caller has the scope that the route requires.

        :raises NotSignedIn: the request has no token, or a wrong one.
        :raises InsufficientScope: the caller does not have the scope, or no account where the route is about one.
        """
        scope: Scope | Literal["account"] | None = g.required_scope
        if (reason := g.get("invalid_token")) is not None:
            raise invalid_token(reason)
        if scope is None or (route.trusts_private_addresses and _has_private_address()):
            return
        caller: Caller = g.caller
        if caller is ANONYMOUS:
            # Without a token there is no error code (RFC 6750, 3.1).
            raise NotSignedIn(
                "This route requires a token. Sign in with POST /auth/token and send the header "
                "Authorization: Bearer with the access token.",
                _CHALLENGE,
            )
        if scope == "account":
            if caller.account_id is None:
                raise InsufficientScope(
                    "This route is about the account of the caller. The operator token has no account."
                )
        elif not caller.has(scope):
            raise InsufficientScope(f"This route requires the scope {scope}, which the token does not have.", scope)


def invalid_token(reason: str) -> NotSignedIn:
    """The error for a token that the service does not accept.

    :param reason: a sentence.
    """
    return NotSignedIn(f"{reason} Sign in again: POST /auth/token.", f'{_CHALLENGE}, error="invalid_token"')


def current_tokens() -> AccessTokens:
    """The access tokens of the current application."""
    tokens: AccessTokens = current_app.extensions[_TOKENS]
    return tokens


def _has_private_address() -> bool:
    peer = request.environ.get("werkzeug.proxy_fix.orig", request.environ)["REMOTE_ADDR"]
    if request.remote_addr == peer and request.headers.get("X-Forwarded-For", peer) != peer:
        # The address of a proxy: the header is not valid, or TRUSTED_PROXIES is too low.
        return False
    try:
        address = ip_address(request.remote_addr or "")
    except ValueError:
        # A Unix socket: any client of the proxy.
        return False
    return address.is_private
