"""`flask --app api db`: apply and inspect the migrations of the keyspace."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import cleandoc
from typing import Any, NamedTuple

import click

from commands.driver import require_supported_driver
from environment import settings_or_exit
from settings import Settings
from storage.db_connect import Session
from storage.db_initialize import admin_session, initialize, server
from storage.schema import SchemaError, description, history, runner
from storage.schema.files import MIGRATIONS, read_migrations
from storage.schema.history import Entry
from storage.schema.transactions import use_keyspace

_EXIT_STATUS = """
\b
Exit status: 0 success; 1 the command failed or found a difference;
2 wrong usage or settings.
"""
_NEW_FILE = """-- {message}
-- Write the statements below. Each ends with a semicolon.
"""


class _Result(NamedTuple):
    """What a command prints: the document with `--json`, else the lines."""

    document: dict[str, Any]
    lines: Iterable[str] = ()
    exit_status: int = 0


@click.group("db")
def group() -> None:
    """Apply and inspect the migrations of the keyspace CASSANDRA_KEYSPACE."""
    require_supported_driver()


def _command(function: Callable[..., _Result]) -> click.Command:
    """Add a command to the group, with the option `--json` and errors of one line.

    :param function: gets the arguments of the command line, and `say` for lines of progress.
    """

    @wraps(function)
    def run(as_json: bool, **arguments: Any) -> None:
        try:
            result = function(say=lambda line: click.echo(line, err=as_json), **arguments)
        except SchemaError as error:
            if as_json:
                click.echo(json.dumps({"error": str(error)}))
            else:
                click.echo(str(error), err=True)
            sys.exit(1)
        if as_json:
            click.echo(json.dumps(result.document, indent=2))
        else:
            for line in result.lines:
                click.echo(line)
        sys.exit(result.exit_status)

    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
    name = function.__name__.removesuffix("_command")
    return group.command(name, help=f"{cleandoc(function.__doc__ or '')}\n{_EXIT_STATUS}")(option(run))


def _number(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "head":
        return None
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise click.BadParameter("expected `head` or the number of a migration, such as 3.")
    return int(value)


@_command
@click.argument("target", metavar="[head|N]", default="head", callback=_number)
def upgrade(target: int | None, say: Callable[[str], None]) -> _Result:
    """Create the keyspace if it is missing, and apply all migrations, or those up to number N.

    It is safe to run on several machines at once: one of them applies the migrations, the others wait. An interrupted
    run can be repeated.
    """
    applied = initialize(settings_or_exit(), samples=False, say=say, target=target)
    return _Result({"applied": applied})


@_command
def current(say: Callable[[str], None]) -> _Result:
    """Print the newest migration of the keyspace, and the pending ones."""
    settings = settings_or_exit()
    place = {"keyspace": settings.cassandra_keyspace, "server": server(settings)}
    entries = _read_history()
    complete = [entry for entry in entries.values() if entry.is_complete]
    newest = max(complete, key=lambda entry: entry.number, default=None)
    name = newest.name if newest else None
    pending = runner.pending(read_migrations(), entries)
    unfinished = [entry.name for entry in entries.values() if entry.is_partial]
    lines = [f"keyspace {place['keyspace']} at {place['server']}"]
    lines.append(f"{name or 'no migration'}{'' if pending else ' (head)'}")
    lines += [f"pending: {each}{' (interrupted)' if each in unfinished else ''}" for each in pending]
    return _Result({**place, "current": name, "pending": pending, "interrupted": unfinished}, lines)


@_command
def history_command(say: Callable[[str], None]) -> _Result:
    """Print the applied migrations: name, time, duration, and the instance that applied each."""
    entries = [entry for entry in _read_history().values() if entry.is_complete]
    documents = [
        {
            "name": entry.name,
            "sha256": entry.sha256,
            "applied_at": entry.applied_at.isoformat() if entry.applied_at else None,
            "duration_ms": entry.duration_ms,
            "applied_by": entry.applied_by,
        }
        for entry in entries
    ]
    return _Result({"migrations": documents}, map(_line, entries))


@_command
def check(say: Callable[[str], None]) -> _Result:
    """Compare the keyspace with this version of the service, without changing anything.

    It reports pending migrations, differences from storage/schema.json in both directions, and statements of
    storage/db_io that the server refuses.
    """
    settings = settings_or_exit()
    with _keyspace_session(settings) as session:
        if session is None:
            raise SchemaError(f"There is no keyspace {settings.cassandra_keyspace}. Run: flask --app api db upgrade")
        names = runner.pending(read_migrations(), history.read(session))
        pending = [f"migration {name} is pending" for name in names]
        found = description.check(session, settings.cassandra_keyspace, with_options=not settings.astra)
    differences = [*pending, *found.differences]
    lines = [*differences, *(f"note: {note}" for note in found.notes)]
    lines.append(f"differences: {len(differences)}" if differences else "The keyspace is as this version expects it.")
    document = {"differences": differences, "notes": found.notes}
    return _Result(document, lines, exit_status=1 if differences else 0)


@_command
@click.option("-m", "--message", required=True, help="What the migration does; it becomes the name of the file.")
def revision(message: str, say: Callable[[str], None]) -> _Result:
    """Create a file for the next migration."""
    words = re.findall(r"[a-z0-9]+", message.lower())
    if not words:
        raise click.BadParameter("it needs a letter or a digit.", param_hint="--message")
    number = len(read_migrations(MIGRATIONS)) + 1
    path = MIGRATIONS / f"{number:04}_{'_'.join(words)[:60]}.cql"
    path.write_text(_NEW_FILE.format(message=" ".join(message.split())), encoding="utf-8")
    return _Result({"created": path.name}, [f"created {path.relative_to(MIGRATIONS.parents[1])}"])


@contextmanager
def _keyspace_session(settings: Settings) -> Iterator[Session | None]:
    """A session with the keyspace; None if there is no such keyspace."""
    with admin_session(settings) as session:
        if settings.cassandra_keyspace in session.cluster.metadata.keyspaces:
            use_keyspace(session, settings.cassandra_keyspace)
            yield session
        else:
            yield None


def _read_history() -> dict[str, Entry]:
    with _keyspace_session(settings_or_exit()) as session:
        return {} if session is None else history.read(session)


def _line(entry: Entry) -> str:
    time = f"{entry.applied_at:%Y-%m-%d %H:%M:%S}Z" if entry.applied_at else "?"
    duration = "?" if entry.duration_ms is None else f"{entry.duration_ms / 1000:.1f} s"
    return f"{entry.name}  {time}  {duration}  {entry.applied_by or '?'}"
