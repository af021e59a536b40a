"""Accounts: the documents with which operators manage them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from schemas.auth import AccountDocument, AccountEmail, NewPassword, Registration
from schemas.base import Body, Path, Query
from schemas.fields import Boolean, Number, optional

# At least one scope: a token without scopes allows nothing.
Scopes = Annotated[list[Literal["read", "write", "operator"]], Field(min_length=1, max_length=3)]


class NewAccount(Registration):
    """An account that an operator creates."""

    scopes: Annotated[Scopes, Field(description="`operator` includes the others.")] = ["read", "write"]


class AccountChanges(Body):
    """Changes of an account: at least one field."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    password: NewPassword = optional()
    scopes: Scopes = optional()
    disabled: Boolean = optional(description="Whether sign-in to the account is impossible.")

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("Give at least one of password, scopes and disabled")
        return self


class ManagedAccount(AccountDocument):
    """An account as operators receive it."""

    disabled: bool


class AccountPath(Path):
    """Path of one account."""

    email: AccountEmail = Field(description="E-mail address of the account.")


class AccountListQuery(Query):
    """Query parameters of `GET /accounts`."""

    limit: Annotated[Number, Field(ge=1, le=100, description="Number of accounts in this response.")] = 20
    page_state: str = optional(description="From the `Link` header of the previous response.")
