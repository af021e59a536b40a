"""Accounts and tokens: registration, sign-in, revocation. docs/authentication.md explains them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import g, request
from werkzeug.exceptions import BadRequest, Conflict, Forbidden

from auth import accounts
from auth.accounts import EmailTaken, InvalidCredentials, ScopeNotGranted
from auth.refresh_tokens import InvalidRefreshToken
from routes.blueprint import Blueprint
from schemas.auth import (
    AccountDocument,
    KeySet,
    PasswordChange,
    Registration,
    RevocationRequest,
    Revoked,
    TokenError,
    TokenRequest,
    Tokens,
)
from schemas.base import Body, InvalidInput
from web.access import current_tokens
from web.dependencies import current_settings
from web.openapi import error_response, json_error, responses
from web.rate_limits import limit_sign_in
from web.request_body import FieldbookRequest
from web.responses import ResponseValue
from web.route_options import route_options
from web.sign_in import account_options, current_account, current_passwords, refresh, sign_in
from web.sign_in import revoke as revoke_refresh_token

blueprint = Blueprint("auth", __name__, tag="sign-in")

# RFC 6749, 5.1: no cache may store tokens.
_NO_STORE = {"Cache-Control": "no-store"}
_TOKEN_ERROR: dict[int | str, Any] = {
    400: json_error(TokenError, "The request, the password, the refresh token or the scope is not valid")
}
# Scopes of an account that a client registers.
_REGISTERED_SCOPES = ("read", "write")

Model = TypeVar("Model", bound=Body)


class _OAuthError(Exception):
    """An error in the form of RFC 6749, 5.2.

    :ivar code: a value of `error` in :class:`TokenError`.
    """

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code = code


@blueprint.post(
    "/auth/register",
    responses={
        **responses(201, AccountDocument, 403, 429),
        409: error_response(409, "There is an account with this e-mail address"),
    },
)
@route_options(scope="open")
def register(body: Registration) -> ResponseValue:
    """Create an account with the scopes `read` and `write`."""
    if not current_settings().is_registration_open:
        raise Forbidden("Clients can't create accounts here: REGISTRATION is closed. Ask an operator for an account.")
    limit_sign_in(body.email)
    options = account_options()
    try:
        account = accounts.create(
            g.session, body.email, body.password, _REGISTERED_SCOPES, current_passwords(options), options
        )
    except EmailTaken:
        raise Conflict("There is an account with this e-mail address.") from None
    return accounts.document(account), 201


@blueprint.post("/auth/token", responses=responses(200, Tokens, 429, headers=("Cache-Control",)) | _TOKEN_ERROR)
@route_options(scope="open", writes=False, form=TokenRequest)
def token() -> ResponseValue:
    """Get an access token and a refresh token (OAuth 2.0): with a password, or with a refresh token."""

    def issue() -> dict[str, Any]:
        body = _requested(TokenRequest)
        match body.grant_type:
            case "password":
                return _sign_in(body)
            case "refresh_token":
                return _refresh(body)
        raise _OAuthError("unsupported_grant_type", "grant_type must be password or refresh_token.")

    return _with_oauth_errors(issue)


def _sign_in(body: TokenRequest) -> dict[str, Any]:
    if not body.username or not body.password:
        raise _OAuthError("invalid_request", "grant_type=password needs username and password.")
    try:
        return sign_in(body.username, body.password, _requested_scopes(body))
    except InvalidCredentials:
        raise _OAuthError(
            "invalid_grant", "There is no active account with this e-mail address and password."
        ) from None


def _refresh(body: TokenRequest) -> dict[str, Any]:
    if not body.refresh_token:
        raise _OAuthError("invalid_request", "grant_type=refresh_token needs refresh_token.")
    try:
        return refresh(body.refresh_token, _requested_scopes(body))
    except InvalidRefreshToken as error:
        raise _OAuthError("invalid_grant", str(error)) from None


@blueprint.post("/auth/revoke", responses=responses(200, Revoked, headers=("Cache-Control",)) | _TOKEN_ERROR)
@route_options(scope="open", form=RevocationRequest)
def revoke() -> ResponseValue:
    """Revoke a refresh token (RFC 7009). Access tokens stay valid until they expire."""

    def revoke_token() -> dict[str, Any]:
        revoke_refresh_token(_requested(RevocationRequest).token)
        return {}

    return _with_oauth_errors(revoke_token)


@blueprint.get("/auth/me", responses=responses(200, AccountDocument))
@route_options(scope="account", sign_in="everywhere")
def me() -> ResponseValue:
    """The account of the caller."""
    return accounts.document(current_account())


@blueprint.post("/auth/password", responses=responses(204, None, 429))
@route_options(scope="account", sign_in="everywhere")
def change_password(body: PasswordChange) -> ResponseValue:
    """Change the password of the caller's account, and revoke all of its refresh tokens."""
    limit_sign_in(g.caller.email)
    options = account_options()
    passwords = current_passwords(options)
    account = current_account()
    if not passwords.matches(account.password_hash, body.current_password):
        raise InvalidInput.at("body", "current_password", "This is not the password of the account")
    if not accounts.set_password(g.session, account, body.new_password, passwords, options):
        raise InvalidInput.at("body", "current_password", "Another request has changed the account in the meantime")
    return "", 204


@blueprint.get("/auth/jwks.json", responses=responses(200, KeySet))
@route_options(session=False, scope="open")
def jwks() -> ResponseValue:
    """The public keys of access tokens, for other services; none if the tokens are signed with HMAC."""
    return current_tokens().public_keys()


# --- OAuth 2.0 ---------------------------------------------------------------------------------------------


def _with_oauth_errors(respond: Callable[[], dict[str, Any]]) -> ResponseValue:
    """The response of a route for tokens."""
    try:
        return respond(), 200, _NO_STORE
    except ScopeNotGranted:
        code, description = "invalid_scope", "The account, or its sign-in, does not have a scope that was asked for."
    except _OAuthError as error:
        code, description = error.code, str(error)
    return {"error": code, "error_description": description}, 400, _NO_STORE


def _requested(model: type[Model]) -> Model:
    """The validated body: a form or JSON."""
    try:
        fields = cast(FieldbookRequest, request).get_form_or_json()
        if isinstance(fields, dict):
            # RFC 6749, 3.1: a parameter without a value counts as omitted.
            fields = {name: value for name, value in fields.items() if value != ""}
        return model.model_validate(fields)
    except BadRequest as error:
        raise _OAuthError("invalid_request", str(error.description)) from None
    except InvalidInput as error:
        first = error.errors[0]
        name = ".".join(map(str, first["loc"]))
        raise _OAuthError("invalid_request", f"{name}: {first['msg']}.") from None


def _requested_scopes(body: TokenRequest) -> frozenset[str] | None:
    return frozenset(body.scope.split()) if body.scope and body.scope.strip() else None
