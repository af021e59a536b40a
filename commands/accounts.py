"""`flask --app api accounts`: create, list and disable the accounts that can sign in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from inspect import cleandoc
from typing import TypeVar

import click
from pydantic import TypeAdapter, ValidationError

from auth import accounts
from auth.accounts import EmailTaken
from auth.callers import SCOPES
from auth.passwords import Passwords
from commands.database import EXIT_STATUS, CommandError, database
from commands.driver import require_supported_driver
from schemas.auth import AccountEmail, NewPassword
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_io.accounts import Account, find_account, list_accounts

# Attempts to change an account that other requests change at the same time.
_ATTEMPTS = 5

_Function = TypeVar("_Function", bound=Callable[..., None])


@click.group("accounts")
def group() -> None:
    """Create, list and disable the accounts that can sign in."""
    require_supported_driver()


def _command(name: str) -> Callable[[_Function], _Function]:
    """Add a command to the group, with a help text that ends with the exit status."""

    def add(function: _Function) -> _Function:
        group.command(name, help=f"{cleandoc(function.__doc__ or '')}\n{EXIT_STATUS}")(function)
        return function

    return add


def _valid(adapter: TypeAdapter[str], what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            reason = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise click.UsageError(f"The {what} is not valid: {reason.removeprefix('Value error, ')}") from None

    return check


_valid_email = _valid(TypeAdapter(AccountEmail), "e-mail address")
_valid_password = _valid(TypeAdapter(NewPassword), "password")

_email_argument = click.argument("email", callback=lambda context, parameter, value: _valid_email(value))
# A password is not an argument of the command line, because other users of the machine can read the arguments.
_password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input, without a prompt."
)


def _read_password(password_stdin: bool) -> str:
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return _valid_password(password)


@_command("create")
@_email_argument
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=("read", "write"),
    help="A scope of the account; may be given more than once. By default read and write.",
)
@click.option("--operator", is_flag=True, help="All scopes: the account may operate the service.")
@_password_option
def create(email: str, scopes: tuple[str, ...], operator: bool, password_stdin: bool) -> None:
    """Create an account. The password has 12 to 128 characters."""
    password = _read_password(password_stdin)
    with database() as (session, settings, options):
        passwords = Passwords(settings, options)
        try:
            account = accounts.create(session, email, password, SCOPES if operator else scopes, passwords, options)
        except EmailTaken:
            raise CommandError(f"There is an account {email} already.") from None
    click.echo(f"created {_line(account)}")


@_command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def list_command(as_json: bool) -> None:
    """Print all accounts, in the order of their addresses."""
    with database() as (session, _, options):
        found = sorted(list_accounts(session, options))
    if as_json:
        click.echo(json.dumps({"accounts": list(map(accounts.managed_document, found))}, indent=2))
    else:
        for account in found:
            click.echo(_line(account))


@_command("disable")
@_email_argument
def disable(email: str) -> None:
    """Disable an account, and revoke its refresh tokens.

    Access tokens stay valid until they expire, at most 15 minutes.
    """
    _set_disabled(email, True)
    click.echo(f"disabled {email}")


@_command("enable")
@_email_argument
def enable(email: str) -> None:
    """Enable a disabled account again."""
    _set_disabled(email, False)
    click.echo(f"enabled {email}")


@_command("set-password")
@_email_argument
@_password_option
def set_password(email: str, password_stdin: bool) -> None:
    """Set the password of an account, and revoke its refresh tokens. A disabled account stays disabled."""
    password = _read_password(password_stdin)
    with database() as (session, settings, options):
        passwords = Passwords(settings, options)
        _change(
            session,
            email,
            lambda account: accounts.set_password(session, account, password, passwords, options),
            options,
        )
    click.echo(f"password of {email} changed")


def _set_disabled(email: str, disabled: bool) -> None:
    with database() as (session, _, options):
        _change(session, email, lambda account: accounts.set_disabled(session, account, disabled, options), options)


def _change(session: Session, email: str, change: Callable[[Account], bool], options: QueryOptions) -> None:
    """Read and change an account. If another request changes the account in between, try again."""
    for _ in range(_ATTEMPTS):
        account = find_account(session, email, options)
        if account is None:
            raise CommandError(f"There is no account {email}.")
        if change(account):
            return
    raise CommandError(f"Other requests change the account {email} at the same time. Run the command again.")


def _line(account: Account) -> str:
    document = accounts.document(account)
    state = "  disabled" if account.disabled else ""
    return f"{account.email}  {' '.join(document['scopes'])}  {document['created_at']}{state}"
