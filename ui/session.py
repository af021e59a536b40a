"""Sign-in of the pages: the refresh token is in a cookie that scripts can't read.

Browsers send the cookie to these routes only, so all other routes need no protection against forged requests of other
sites (CSRF). Two things protect these routes: `SameSite=Strict`, and a header that a page of another origin can't send,
because CORS does not allow it.
"""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request, url_for
from pydantic import Field
from werkzeug.exceptions import Forbidden

from auth.accounts import InvalidCredentials, ScopeNotGranted
from auth.refresh_tokens import InvalidRefreshToken
from schemas.auth import Password
from schemas.base import Body
from ui.blueprint import blueprint
from web.access import NotSignedIn, current_tokens
from web.dependencies import current_settings
from web.responses import ResponseValue
from web.route_options import route_options
from web.sign_in import refresh, revoke, sign_in

_COOKIE = "fieldbook_session"
_HEADER = "X-Requested-With"
_NO_STORE = {"Cache-Control": "no-store"}


class SignIn(Body):
    """An account and its password."""

    email: str = Field(max_length=254)
    password: Password


@blueprint.post("/ui/session", doc_ui=False)
@route_options(scope="open", writes=False)
def create_session(body: SignIn) -> ResponseValue:
    """Sign in: an access token for the page, and the refresh token as a cookie."""
    _require_own_page()
    try:
        tokens = sign_in(body.email, body.password, None)
    except InvalidCredentials:
        raise NotSignedIn("There is no active account with this e-mail address and password.", "Bearer") from None
    _revoke_cookie()
    response = _with_cookie(tokens)
    if "refresh_token" not in tokens:
        # In read-only mode there is no new cookie. Delete the old one, so that a reload does not sign in its account.
        response.delete_cookie(_COOKIE, **_attributes())
    return response


@blueprint.post("/ui/session/token", doc_ui=False)
@route_options(scope="open", writes=False)
def renew_session() -> ResponseValue:
    """A new access token for the cookie; 204 if nobody is signed in."""
    _require_own_page()
    token = request.cookies.get(_COOKIE)
    if not token:
        return "", 204, _NO_STORE
    try:
        return _with_cookie(refresh(token, None))
    except (InvalidRefreshToken, ScopeNotGranted):
        return _without_cookie()


@blueprint.delete("/ui/session", doc_ui=False)
@route_options(scope="open", writes=False)
def delete_session() -> ResponseValue:
    """Sign out: revoke the refresh token and delete the cookie. In read-only mode, only delete the cookie."""
    _require_own_page()
    _revoke_cookie()
    return _without_cookie()


def _require_own_page() -> None:
    """Reject requests of other sites.

    :raises Forbidden: the request does not come from a page of this service.
    """
    # Use Sec-Fetch-Site rather than Origin: behind a proxy, the service may not know its own origin.
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or _HEADER not in request.headers:
        raise Forbidden(f"Only pages of this service can use this route. They send the header {_HEADER}.")


def _revoke_cookie() -> None:
    """Revoke the refresh token in the cookie, if there is one."""
    token = request.cookies.get(_COOKIE)
    if token and not current_settings().read_only:
        revoke(token)


def _with_cookie(tokens: dict[str, Any]) -> Response:
    """The access token with the address of its account, and the refresh token as a cookie."""
    refresh_token = tokens.get("refresh_token")
    document = {name: value for name, value in tokens.items() if name != "refresh_token"}
    response = jsonify(document | {"email": current_tokens().verify(tokens["access_token"]).email})
    response.headers.update(_NO_STORE)
    # In read-only mode there is no new refresh token, and an earlier one stays valid.
    if refresh_token is not None:
        response.set_cookie(_COOKIE, refresh_token, max_age=current_settings().refresh_token_lifetime, **_attributes())
    return response


def _without_cookie() -> Response:
    response = Response(status=204, headers=_NO_STORE)
    response.delete_cookie(_COOKIE, **_attributes())
    return response


def _attributes() -> dict[str, Any]:
    return {"path": url_for("ui.create_session"), "secure": True, "httponly": True, "samesite": "Strict"}
