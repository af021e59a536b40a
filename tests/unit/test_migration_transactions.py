"""How the migration runner reacts to failures that one healthy node does not produce."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra import ConsistencyLevel, OperationTimedOut
from cassandra.policies import FallthroughRetryPolicy
from cassandra.protocol import ErrorMessage
from cassandra.query import SimpleStatement

from storage.schema import SchemaError, lock, transactions
from storage.schema.history import Entry, Progress
from storage.schema.lock import LeaseLost, Lock
from storage.schema.transactions import await_agreement, execute_ddl, transaction

CAS_WRITE_UNKNOWN = ErrorMessage(0x1700, "CAS operation result is unknown", {})


class Answers:
    """A session that gives these answers: exceptions, or the row of a transaction, made from its parameters."""

    keyspace = "birds"

    def __init__(self, *answers: Exception | Callable[[Sequence[Any]], tuple[Any, ...]]) -> None:
        self.answers = list(answers)
        self.statements: list[SimpleStatement] = []
        self.is_agreed = False
        control = SimpleNamespace(wait_for_schema_agreement=lambda wait_time: self.is_agreed)
        self.cluster = SimpleNamespace(control_connection=control)

    def execute(self, statement: SimpleStatement, values: Sequence[Any]) -> SimpleNamespace:
        self.statements.append(statement)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(one=lambda: answer(values))

    def execute_async(self, statement: SimpleStatement, timeout: float) -> SimpleNamespace:
        self.statements.append(statement)
        return SimpleNamespace(result=lambda: None, is_schema_agreed=self.is_agreed)


@pytest.mark.parametrize("error", [OperationTimedOut(), CAS_WRITE_UNKNOWN], ids=["timeout", "unknown outcome"])
def test_transactions_with_an_unknown_outcome_are_repeated(error: Exception) -> None:
    session = Answers(error, lambda values: (True,))
    assert transaction(session, "UPDATE …", ()) is None
    assert [each.serial_consistency_level for each in session.statements] == [ConsistencyLevel.SERIAL] * 2


def test_repeated_transactions_end_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "_RETRY_FOR", -1)
    with pytest.raises(SchemaError, match=r"Cassandra does not answer: .*result is unknown"):
        transaction(Answers(CAS_WRITE_UNKNOWN), "UPDATE …", ())


def test_a_lock_that_was_acquired_without_a_response_is_recognized() -> None:
    """The repeated transaction is not applied, because this runner is the owner already."""
    session = Answers(OperationTimedOut(), lambda values: (False, values[1]))
    Lock(session)._acquire(print)
    assert session.answers == []


def test_a_runner_that_was_stopped_during_the_renewal_of_its_lease_has_lost_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cassandra renewed the lease, but it expired before the runner continued."""
    now = 1000.0

    def renew(values: Sequence[Any]) -> tuple[Any, ...]:
        nonlocal now
        now += 31
        return (True,)

    monkeypatch.setattr(lock, "time", SimpleNamespace(monotonic=lambda: now))
    with pytest.raises(LeaseLost, match="stopped for longer than its lease"):
        Lock(Answers(renew), lease=30).verify()


def test_a_claim_that_succeeded_without_a_response_is_recognized() -> None:
    session = Answers(OperationTimedOut(), lambda values: (False, values[0]))
    Progress(session, Entry("0001_birds.cql"), Lock(session).owner)
    assert session.answers == []


def test_schema_changes_are_sent_once_and_need_agreement() -> None:
    """The driver's default policy would send them to the next node after a lost connection."""
    session = Answers()
    with pytest.raises(SchemaError, match="do not agree on the schema"):
        execute_ddl(session, "CREATE TABLE …")
    assert [type(each.retry_policy) for each in session.statements] == [FallthroughRetryPolicy]
    with pytest.raises(SchemaError, match="do not agree on the schema"):
        await_agreement(session)
    session.is_agreed = True
    execute_ddl(session, "CREATE TABLE …")
    await_agreement(session)
