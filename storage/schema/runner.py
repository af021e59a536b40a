"""Applies migrations, one runner at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cassandra import AlreadyExists, InvalidRequest, Unauthorized
from cassandra.cluster import Session
from cassandra.protocol import ConfigurationException, SyntaxException

from storage.schema import SchemaError, history
from storage.schema.files import Migration, MigrationStatement
from storage.schema.history import Entry, Progress
from storage.schema.lock import LEASE, Lock
from storage.schema.transactions import await_agreement, execute_ddl, reason

# Cassandra answers with one of these before it changes anything.
_REFUSED = (AlreadyExists, InvalidRequest, ConfigurationException, SyntaxException, Unauthorized)
_NOT_SUPPORTED = (InvalidRequest, ConfigurationException, SyntaxException)


def upgrade(
    session: Session,
    migrations: Sequence[Migration],
    say: Callable[[str], None],
    target: int | None = None,
    lease: int = LEASE,
) -> list[str]:
    """Apply the migrations that the keyspace does not have yet, in the order of their numbers.

    An interrupted run can be repeated: it continues with the statement at which the last run ended.

    :param session: with a keyspace.
    :param migrations: from `read_migrations()`.
    :param say: called with each line of progress.
    :param target: number of the last migration to apply; None for all.
    :param lease: whole seconds for which a runner that was killed blocks the others.
    :returns: names of the applied files.
    :raises SchemaError: an applied migration was changed, Cassandra refused a statement, or its outcome is not known.
    """
    check_target(migrations, target)
    lock = Lock(session, lease)
    with lock.held(say):
        history.create(session)
        entries = history.read(session)
        check_history(migrations, entries)
        applied = []
        for migration in migrations[:target]:
            entry = entries.get(migration.name)
            if entry is not None and entry.is_complete:
                say(f"migration {migration.name}: applied already")
                continue
            _apply(session, lock, migration, say)
            applied.append(migration.name)
            say(f"migration {migration.name}: applied")
        return applied


def check_target(migrations: Sequence[Migration], target: int | None) -> None:
    """Raise SchemaError if there is no migration with this number."""
    if target is not None and not 1 <= target <= len(migrations):
        raise SchemaError(f"There is no migration {target}: the numbers are 1 to {len(migrations)}.")


def check_history(migrations: Sequence[Migration], entries: dict[str, Entry]) -> None:
    """Compare the files with what was applied.

    Applied migrations that have no file are accepted: a newer version of the service has added them.

    :raises SchemaError: an applied or interrupted migration was changed or renamed, or there is a new one before it.
    """
    complete = {entry.number: entry for entry in entries.values() if entry.is_complete}
    partial = {entry.number: entry for entry in entries.values() if entry.is_partial}
    for migration in migrations:
        other = complete.get(migration.number)
        interrupted = partial.get(migration.number)
        if interrupted is not None and interrupted.name != migration.name:
            raise SchemaError(
                f"{migration.name}: the keyspace has a part of another migration with this number, {interrupted.name}. "
                "Restore the name of that file and run this again."
            )
        if other is None and (later := [number for number in complete if number > migration.number]):
            raise SchemaError(
                f"{migration.name} was not applied, but {complete[max(later)].name} was. Give the file the next free "
                "number."
            )
        if other is not None and other.name != migration.name:
            raise SchemaError(
                f"{migration.name}: the keyspace has another migration with this number, {other.name}. Give the file "
                "the next free number."
            )
        if other is not None and other.sha256 != migration.checksum:
            raise SchemaError(
                f"{migration.name} has changed since it was applied. Restore its text, and put the change into a new "
                "migration."
            )


def pending(migrations: Sequence[Migration], entries: dict[str, Entry]) -> list[str]:
    """The names of the migrations that the keyspace does not have yet, also of an interrupted one.

    :raises SchemaError: as in :func:`check_history`.
    """
    check_history(migrations, entries)
    complete = {name for name, entry in entries.items() if entry.is_complete}
    return [migration.name for migration in migrations if migration.name not in complete]


def _apply(session: Session, lock: Lock, migration: Migration, say: Callable[[str], None]) -> None:
    entry = history.read_one(session, migration.name)
    done = entry.done or []
    _check_done(migration, done)
    progress = Progress(session, entry, lock.owner)
    for number, statement in enumerate(migration.statements, 1):
        if number <= len(done):
            continue
        began = time.monotonic()
        is_unsure = entry.started == number
        if not (is_unsure and _took_effect(session, statement)):
            progress.start(number)
            _execute(session, lock, migration, statement, progress, say, is_unsure)
        progress.done(statement.checksum, time.monotonic() - began)
    progress.complete(migration, lock.instance)


def _check_done(migration: Migration, done: Sequence[str]) -> None:
    """Raise SchemaError if a statement of an incomplete migration has changed since it was applied."""
    if len(done) > len(migration.statements):
        raise SchemaError(f"{migration.name}: {len(done)} statements were applied, but the file has fewer. Restore it.")
    for statement, checksum in zip(migration.statements, done, strict=False):
        if statement.checksum != checksum:
            raise SchemaError(
                f"{migration.name}:{statement.line}: this statement has changed since it was applied. Restore it: only "
                "later statements may change."
            )


def _took_effect(session: Session, statement: MigrationStatement) -> bool:
    await_agreement(session)
    return statement.effect.is_there(session)


def _execute(
    session: Session,
    lock: Lock,
    migration: Migration,
    statement: MigrationStatement,
    progress: Progress,
    say: Callable[[str], None],
    is_unsure: bool,
) -> None:
    """Execute a statement, and wait until all nodes that are up have it.

    :param is_unsure: an earlier run may have sent it too.
    """
    place = f"{migration.name}:{statement.line}"
    lock.verify()
    try:
        execute_ddl(session, statement.cql)
    except _REFUSED as error:
        # The statement of the earlier run may have reached Cassandra only now.
        if is_unsure and _took_effect(session, statement):
            return
        progress.refused()
        if not (statement.optional and isinstance(error, _NOT_SUPPORTED)):
            raise SchemaError(f"{place}: Cassandra refuses the statement: {reason(error)}") from error
        say(f"{place}: skipped, because this server refuses the statement: {reason(error)}")
    except SchemaError as error:
        raise SchemaError(f"{place}: {error}") from error
    except BaseException as error:
        lock.keep_until_it_expires = True
        if not isinstance(error, Exception):
            raise
        raise SchemaError(
            f"{place}: it is not known whether Cassandra executed the statement: {reason(error)}. Run the command "
            "again: it finds out."
        ) from error
