"""What the commands that use tables of the service share: a session, and errors of one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from environment import settings_or_exit
from settings import Settings
from storage.cql import QueryOptions
from storage.db_connect import NotConnected, Session, open_session
from storage.errors import StorageError

EXIT_STATUS = """
\b
Exit status: 0 success; 1 the command failed; 2 wrong usage or settings.
"""


class CommandError(Exception):
    """The command has failed; the message says why."""


@contextmanager
def database() -> Iterator[tuple[Session, Settings, QueryOptions]]:
    """A session with the keyspace. Errors end the command with a message of one line."""
    settings = settings_or_exit()
    try:
        session = open_session(settings, settings.cassandra_keyspace)
        try:
            yield session, settings, QueryOptions(timeout=settings.request_timeout)
        finally:
            session.cluster.shutdown()
    except NotConnected as error:
        message = f"Cassandra can't be used: {error}"
    except StorageError as error:
        message = f"{error} Check the keyspace: flask --app api db check"
    except CommandError as error:
        message = str(error)
    else:
        return
    click.echo(message, err=True)
    sys.exit(1)
