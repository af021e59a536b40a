"""Accounts. Every change of an account is a lightweight transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Annotated, NamedTuple
from uuid import UUID

from cassandra.cluster import Session

from storage.cql import Page, QueryOptions, Statement, execute, stream
from storage.cql.consistency import serial_level
from storage.db_io.versioned import can_be_settled
from storage.errors import StorageError, StorageTimeout


class Account(NamedTuple):
    """A row of `accounts`.

    :ivar email: normalized and in lower case.
    :ivar credentials: a new value with each new password and each change of `scopes` or `disabled`.
    """

    email: Annotated[str, "text"]
    id: Annotated[UUID, "uuid"]
    password_hash: Annotated[str, "text"]
    scopes: Annotated[frozenset[str], "frozen<set<text>>"]
    disabled: Annotated[bool, "boolean"]
    credentials: Annotated[UUID, "uuid"]
    created_at: Annotated[datetime, "timestamp"]


# Two requests may create the same account at the same time. The lightweight transaction lets one of them succeed.
INSERT_ACCOUNT = Statement(
    "insert_account",
    "INSERT INTO {keyspace}.accounts ({columns}) VALUES ({values}) IF NOT EXISTS",
    Account._fields,
    kind="lwt",
    idempotent=False,
)
SELECT_ACCOUNT = Statement(
    "select_account", "SELECT {columns} FROM {keyspace}.accounts WHERE email = ?", Account._fields
)
SELECT_ACCOUNTS = Statement("select_accounts", "SELECT {columns} FROM {keyspace}.accounts", Account._fields)
UPDATE_ACCOUNT = Statement(
    "update_account",
    "UPDATE {keyspace}.accounts SET {assignments} WHERE email = ? IF credentials = ?",
    ("password_hash", "scopes", "disabled", "credentials"),
    kind="lwt",
    idempotent=False,
)
REHASH_PASSWORD = Statement(
    "rehash_password",
    "UPDATE {keyspace}.accounts SET {assignments} WHERE email = ? IF password_hash = ?",
    ("password_hash",),
    kind="lwt",
    idempotent=False,
)


def create_account(session: Session, account: Account, options: QueryOptions) -> bool:
    """Store a new account.

    :returns: false if there is an account with this address.
    :raises StorageTimeout: with `may_have_applied` if the outcome is not known.
    """

    def is_stored(found: Account | None) -> bool | None:
        return None if found is None else found.id == account.id

    return _transact(session, INSERT_ACCOUNT, account, account.email, is_stored, options)


def find_account(session: Session, email: str, options: QueryOptions) -> Account | None:
    """Read the account with a normalized address; None if there is none."""
    rows = execute(session, SELECT_ACCOUNT, (email,), options).rows
    return _account(rows[0]) if rows else None


def list_accounts(session: Session, options: QueryOptions) -> Iterator[Account]:
    """Read all accounts, page by page, in no order."""
    with stream(session, SELECT_ACCOUNTS, (), options) as pages:
        for page in pages:
            yield from map(_account, page)


def retrieve_accounts_page(session: Session, limit: int, paging_state: bytes | None, options: QueryOptions) -> Page:
    """Read one page of all accounts, in token order.

    :returns: at most `limit` accounts.
    :raises PagingStateRefused: the server does not accept the paging state.
    """
    page = execute(session, SELECT_ACCOUNTS, (), options, fetch_size=limit, paging_state=paging_state)
    return Page(list(map(_account, page.rows)), page.paging_state)


def update_account(session: Session, before: Account, after: Account, options: QueryOptions) -> bool:
    """Change the password, `scopes` and `disabled` of an account.

    :param before: as it was read.
    :param after: with new `credentials`.
    :returns: false if another request has changed the account since, so that nothing was changed.
    :raises StorageTimeout: with `may_have_applied` if the outcome is not known.
    """
    columns = [getattr(after, column) for column in UPDATE_ACCOUNT.columns]

    def is_stored(found: Account | None) -> bool | None:
        return True if found is not None and found.credentials == after.credentials else None

    values = (*columns, before.email, before.credentials)
    return _transact(session, UPDATE_ACCOUNT, values, before.email, is_stored, options)


def rehash_password(session: Session, account: Account, password_hash: str, options: QueryOptions) -> None:
    """Replace the hash of the same password, unless the hash has changed since the account was read."""
    execute(session, REHASH_PASSWORD, (password_hash, account.email, account.password_hash), options)


def _transact(
    session: Session,
    statement: Statement,
    values: Sequence[object],
    email: str,
    is_stored: Callable[[Account | None], bool | None],
    options: QueryOptions,
) -> bool:
    """Run a lightweight transaction. If its outcome is unknown, a serial read may settle it.

    :param is_stored: whether the account that was read proves that the transaction succeeded, or failed; None for
        neither.
    :returns: whether it was applied.
    """
    try:
        return bool(execute(session, statement, values, options).rows[0][0])
    except StorageTimeout as error:
        if can_be_settled(session, error, options):
            with suppress(StorageError):
                serial = replace(options, consistency_level=serial_level(session))
                outcome = is_stored(find_account(session, email, serial))
                if outcome is not None:
                    return outcome
        raise


def _account(row: Sequence[object]) -> Account:
    account = Account._make(row)
    return account._replace(scopes=frozenset(account.scopes))
