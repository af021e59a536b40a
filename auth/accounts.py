"""Accounts: creation, sign-in, and changes of the password."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from auth.callers import SCOPES, ordered
from auth.passwords import Passwords, TooManyHashes
from storage.cql import QueryOptions
from storage.cql.json_values import rfc3339
from storage.db_connect import Session
from storage.db_io import accounts
from storage.db_io.accounts import Account
from storage.db_io.versioned import now
from storage.errors import StorageError


class EmailTaken(Exception):
    """There is an account with this address."""


class InvalidCredentials(Exception):
    """There is no such account, it is disabled, or the password is wrong.

    The exception does not say which, because clients must not learn whether an account exists.
    """


class ScopeNotGranted(Exception):
    """The client asks for a scope that the account does not have, or that it did not ask for when it signed in."""


def create(
    session: Session, email: str, password: str, scopes: Iterable[str], passwords: Passwords, options: QueryOptions
) -> Account:
    """Create an account.

    :param email: normalized.
    :raises EmailTaken: there is an account with this address.
    :raises TooManyHashes: other requests are hashing passwords.
    """
    # Avoid an expensive hash. If another request creates the account after this read, the transaction fails.
    if accounts.find_account(session, email, options) is not None:
        raise EmailTaken
    account = Account(
        email=email,
        id=uuid4(),
        password_hash=passwords.hash(password),
        scopes=frozenset(scopes),
        disabled=False,
        credentials=uuid4(),
        created_at=now(),
    )
    if not accounts.create_account(session, account, options):
        raise EmailTaken
    return account


def sign_in(
    session: Session, email: str, password: str, passwords: Passwords, options: QueryOptions, *, rehash: bool = False
) -> Account:
    """The account with this address and password.

    :param email: normalized, or any text that is not an address.
    :param rehash: store a new hash if the parameters have changed.
    :raises InvalidCredentials: there is no such account, it is disabled, or the password is wrong.
    :raises TooManyHashes: other requests are hashing passwords.
    """
    account = accounts.find_account(session, email, options)
    matches = passwords.matches(account.password_hash if account else None, password)
    if account is None or account.disabled or not matches:
        raise InvalidCredentials
    if rehash and passwords.is_outdated(account.password_hash):
        # A failure must not prevent the sign-in. The next sign-in tries again.
        with suppress(StorageError, TooManyHashes):
            accounts.rehash_password(session, account, passwords.hash(password), options)
    return account


def set_password(
    session: Session, account: Account, password: str, passwords: Passwords, options: QueryOptions
) -> bool:
    """Set the password of an account, and revoke all of its refresh tokens.

    :param account: as it was read.
    :returns: false if the account has changed since, so that nothing was changed.
    :raises TooManyHashes: other requests are hashing passwords.
    """
    return change(session, account, {"password_hash": passwords.hash(password)}, options) is not None


def set_disabled(session: Session, account: Account, disabled: bool, options: QueryOptions) -> bool:
    """Disable an account or enable it again, and revoke all of its refresh tokens.

    :param account: as it was read.
    :returns: false if the account has changed since, so that nothing was changed.
    """
    return change(session, account, {"disabled": disabled}, options) is not None


def change(session: Session, account: Account, columns: Mapping[str, Any], options: QueryOptions) -> Account | None:
    """Change columns of an account, and revoke all of its refresh tokens.

    :param account: as it was read.
    :param columns: new values of `password_hash`, `scopes` and `disabled`, or of some of them.
    :returns: None if the account has changed since, so that nothing was changed.
    """
    after = account._replace(**columns, credentials=uuid4())
    return after if accounts.update_account(session, account, after, options) else None


def scopes_of(account: Account) -> frozenset[str]:
    """The scopes of an account. `operator` includes the others."""
    return frozenset(SCOPES) if "operator" in account.scopes else account.scopes


def document(account: Account) -> dict[str, Any]:
    """An account as clients receive it."""
    return {
        "id": str(account.id),
        "email": account.email,
        "scopes": ordered(account.scopes),
        "created_at": rfc3339(account.created_at),
    }


def managed_document(account: Account) -> dict[str, Any]:
    """An account as operators receive it."""
    return document(account) | {"disabled": account.disabled}


def narrowed(scopes: frozenset[str], requested: frozenset[str] | None) -> frozenset[str]:
    """The requested scopes; None stands for all.

    :raises ScopeNotGranted: a requested scope is not in `scopes`.
    """
    if requested is None:
        return scopes
    if not requested <= scopes:
        raise ScopeNotGranted
    return requested
