"""The caller of a request, and the scopes that a caller can have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args
from uuid import UUID

# `operator` includes the other scopes.
Scope = Literal["read", "write", "operator"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


def ordered(scopes: Iterable[str]) -> list[Scope]:
    """Scopes in the order of `SCOPES`."""
    found = set(scopes)
    return [scope for scope in SCOPES if scope in found]


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    :ivar name: the same for all requests of this caller: `account` and the id, `operator` for the operator token, or
        `anonymous`.
    :ivar scopes: what the caller may do.
    :ivar account_id: None for a caller without account.
    :ivar email: normalized address of the account.
    """

    name: str
    scopes: frozenset[str] = frozenset()
    account_id: UUID | None = None
    email: str | None = None

    def has(self, scope: Scope) -> bool:
        """Whether the caller has a scope."""
        return scope in self.scopes or "operator" in self.scopes


ANONYMOUS = Caller("anonymous")
# A client with the OPERATOR_TOKEN.
OPERATOR = Caller("operator", frozenset(SCOPES))


def account_caller(account_id: UUID, email: str, scopes: Iterable[str]) -> Caller:
    """The caller that signed in to an account."""
    return Caller(f"account {account_id}", frozenset(scopes), account_id, email)
