"""The driver sends a statement a second time only if the statement is marked as idempotent."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest
from cassandra.cluster import Session
from cassandra.policies import FallthroughRetryPolicy, NoSpeculativeExecutionPlan
from cassandra.query import BoundStatement

from settings import Settings
from storage import db_connect, db_io
from storage.cql import QueryOptions, Statement, bind, prepared_cache
from tests.testbed import db_io as testbed_db_io
from tests.testbed.db_io.observers import INSERT_OBSERVER, SELECT_OBSERVERS

# A lightweight transaction that is safe to apply twice: an id that the service made is never used again.
IDEMPOTENT_TRANSACTION = re.compile(r"DELETE FROM \S+ WHERE id = \? IF EXISTS")
# An INSERT of a row under a new id. It is not idempotent.
CREATING_STATEMENT = re.compile(r"INSERT .* USING TIMESTAMP 1")


def statements() -> list[Statement]:
    """Return every statement of every table module of the product and of the testbed."""
    modules = [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for package in (db_io, testbed_db_io)
        for module in pkgutil.iter_modules(package.__path__)
    ]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, Statement)}
    assert len(found) > 15
    return sorted(found)


@pytest.mark.parametrize("statement", statements(), ids=lambda statement: statement.name)
def test_statements_declare_their_kind_and_idempotence_correctly(statement: Statement) -> None:
    """Conditional and creating statements are not idempotent, except one kind of transaction.

    The kind matches the CQL, and each name is unique.
    """
    verb = statement.cql.split()[0]
    conditional = re.search(r"\bIF\b", statement.cql) is not None
    assert (statement.kind == "lwt") == conditional
    assert (statement.kind == "read") == (verb == "SELECT")
    creating = CREATING_STATEMENT.fullmatch(statement.cql) is not None
    repeatable = IDEMPOTENT_TRANSACTION.fullmatch(statement.cql) is not None
    assert statement.idempotent == (repeatable or not (conditional or creating))
    assert [other.name for other in statements()].count(statement.name) == 1


def test_driver_retries_only_idempotent_statements(session: Session, settings: Settings) -> None:
    """Only idempotent statements are retried after a failure or executed speculatively.

    Speculative execution sends a statement to a second node if the first one has not responded yet.
    """
    own = db_connect.open_session(settings, settings.cassandra_keyspace)
    options = QueryOptions()

    def bind_nulls(statement: Statement) -> BoundStatement:
        prepared = prepared_cache.get(own, statement, options)
        return bind(own, statement, [None] * len(prepared.column_metadata), options)

    try:
        for statement in statements():
            bound = bind_nulls(statement)
            assert bound.is_idempotent == statement.idempotent
            assert isinstance(bound.retry_policy, FallthroughRetryPolicy) == (not statement.idempotent)
        for statement in (SELECT_OBSERVERS, INSERT_OBSERVER):
            future = own._create_response_future(bind_nulls(statement), None, False, None, 1.0)
            assert isinstance(future._spec_execution_plan, NoSpeculativeExecutionPlan) == (statement is INSERT_OBSERVER)
    finally:
        own.cluster.shutdown()
