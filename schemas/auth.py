"""Sign-in: the documents of accounts and tokens that clients send and receive."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from unicodedata import normalize
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from schemas.base import Body
from schemas.fields import Email, optional


def _in_lower_case(email: str) -> str:
    # Some letters, such as H with a line below, are one character only in lower case.
    return normalize("NFC", email.lower())


AccountEmail = Annotated[Email, AfterValidator(_in_lower_case)]
NewPassword = Annotated[
    str, StringConstraints(min_length=12, max_length=128), Field(json_schema_extra={"format": "password"})
]
# The password at sign-in: any text, because an old password may break the current rule for new passwords.
Password = Annotated[str, Field(json_schema_extra={"format": "password"})]


class Registration(Body):
    """An account to create."""

    email: AccountEmail
    password: NewPassword


class PasswordChange(Body):
    """A new password for the account of the caller."""

    current_password: Password
    new_password: NewPassword


class TokenRequest(Body):
    """A request for tokens (RFC 6749): with the password of an account, or with a refresh token."""

    # RFC 6749, 3.2: ignore unknown parameters. A client that sends a client_id gets tokens of the account.
    model_config = ConfigDict(extra="ignore")

    grant_type: str = Field(description="`password` or `refresh_token`.", json_schema_extra={"examples": ["password"]})
    username: str = optional(description="E-mail address of the account, with `grant_type=password`.")
    password: Password = optional(description="With `grant_type=password`.")
    refresh_token: str = optional(description="With `grant_type=refresh_token`.")
    scope: str = optional(
        description="Scopes of the access token, separated by spaces: at most those of the account. By default all."
    )


class RevocationRequest(Body):
    """A token to revoke (RFC 7009)."""

    model_config = ConfigDict(extra="ignore")

    token: str = Field(
        min_length=1, description="A refresh token. All tokens that follow from the same sign-in are revoked with it."
    )
    token_type_hint: str = optional(description="Has no effect.")


class AccountDocument(BaseModel):
    """An account as the client receives it."""

    id: UUID
    email: str
    scopes: list[str]
    created_at: datetime


class Tokens(BaseModel):
    """An access token, and the refresh token for the next one."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="Seconds for which the access token is valid.")
    refresh_token: str = optional(description="Absent in read-only mode.")
    scope: str = Field(description="Scopes of the access token, separated by spaces.")


class TokenError(BaseModel):
    """An error of the routes for tokens (RFC 6749, 5.2)."""

    error: Literal["invalid_request", "invalid_grant", "invalid_scope", "unsupported_grant_type"]
    error_description: str


class Revoked(BaseModel):
    """The response to a revocation: an object without fields."""


class KeySet(BaseModel):
    """A JWK Set (RFC 7517)."""

    keys: list[dict[str, object]] = Field(description="Public keys; none if access tokens are signed with HMAC.")
