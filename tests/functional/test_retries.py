"""What the driver may send a second time: what is marked idempotent, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest
from cassandra.cluster import Session
from cassandra.policies import FallthroughRetryPolicy, NoSpeculativeExecutionPlan
from cassandra.query import BoundStatement
from storage.cql.statements import Statement, prepared_cache

from settings import Settings
from storage import db_connect, db_io
from storage.cql.execution import QueryOptions, bind
from storage.db_io.users import INSERT_USER, SELECT_USERS

# A transaction that comes to the same however often it is applied: a user's id is never used again.
REPEATABLE_TRANSACTIONS = {"delete_user"}
# A row with an id of its own.
CREATING = {"insert_user"}


def statements() -> list[Statement]:
    """Every statement of every table."""
    modules = [
        importlib.import_module(f"storage.db_io.{module.name}") for module in pkgutil.iter_modules(db_io.__path__)
    ]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, Statement)}
    assert len(found) > 15
    return sorted(found)


@pytest.mark.parametrize("statement", statements(), ids=lambda statement: statement.name)
def test_the_marks(statement: Statement) -> None:
    """Conditions and creations are not idempotent; kinds are true; names are told apart."""
    verb = statement.cql.split()[0]
    conditional = re.search(r"\bIF\b", statement.cql) is not None
    assert (statement.kind == "lwt") == conditional
    assert (statement.kind == "read") == (verb == "SELECT")
    repeatable = statement.name in REPEATABLE_TRANSACTIONS or not (conditional or statement.name in CREATING)
    assert statement.idempotent == repeatable
    assert [other.name for other in statements()].count(statement.name) == 1


def test_what_the_driver_is_told(session: Session, settings: Settings) -> None:
    """An idempotent statement may be sent to a second node while it waits; another never, nor after a failure."""
    own = db_connect.open_session(settings, settings.cassandra_keyspace)
    options = QueryOptions()

    def ready(statement: Statement) -> BoundStatement:
        prepared = prepared_cache.get(own, statement, options)
        values = [None] * len(prepared.column_metadata)
        return bind(own, prepared, values, options, kind=statement.kind, idempotent=statement.idempotent)

    try:
        for statement in statements():
            if statement.name == "select_missing":
                continue
            bound = ready(statement)
            assert bound.is_idempotent == statement.idempotent
            assert isinstance(bound.retry_policy, FallthroughRetryPolicy) == (not statement.idempotent)
        for statement in (SELECT_USERS, INSERT_USER):
            future = own._create_response_future(ready(statement), None, False, None, 1.0)
            assert isinstance(future._spec_execution_plan, NoSpeculativeExecutionPlan) == (statement is INSERT_USER)
    finally:
        own.cluster.shutdown()
