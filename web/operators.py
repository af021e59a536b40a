"""Operators: clients that send `Authorization: Bearer` with the OPERATOR_TOKEN."""

from __future__ import annotations

import hmac

from flask import request
from pydantic import SecretStr
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized


def require_operator(operator_token: SecretStr | None) -> None:
    """Reject the current request unless it has the operator token.

    :param operator_token: the setting OPERATOR_TOKEN; None rejects every request.
    :raises Unauthorized: the request has no token, or a wrong one.
    :raises Forbidden: the request has a token, but OPERATOR_TOKEN is not set.
    """
    # Not request.authorization, which fails for some headers of other schemes.
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        hint = (
            "Send the header Authorization: Bearer with the operator token."
            if operator_token
            else "This service has no OPERATOR_TOKEN, so no client can call this route."
        )
        raise Unauthorized(f"This route is for operators. {hint}", www_authenticate=_challenge())
    if operator_token is None:
        raise Forbidden("This service has no OPERATOR_TOKEN, so no client can call this route.")
    if not hmac.compare_digest(token.encode(), operator_token.get_secret_value().encode()):
        raise Unauthorized("The operator token is wrong.", www_authenticate=_challenge("invalid_token"))


def _challenge(error: str | None = None) -> WWWAuthenticate:
    return WWWAuthenticate("bearer", {"realm": "fieldbook", **({"error": error} if error else {})})
