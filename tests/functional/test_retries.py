"""Which statements the driver may retry after an error, and which it may also send to a second node.

The former are idempotent. The latter are idempotent, and neither transactions nor serial reads.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cassandra.cluster import ResponseFuture, Session
from cassandra.connection import DefaultEndPoint
from cassandra.policies import FallthroughRetryPolicy

from settings import Settings
from storage import db_connect, db_io
from storage.cql import QueryOptions, Statement, bind, prepared_cache
from storage.cql.execution import receive, send
from tests.support import OBSERVER, TcpProxy, wait_for
from tests.testbed import db_io as testbed_db_io
from tests.testbed.db_io import observers
from tests.testbed.db_io.observers import DELETE_OBSERVER, INSERT_OBSERVER, SELECT_OBSERVER

# A lightweight transaction that is safe to apply twice: an id that the service made is never used again.
IDEMPOTENT_TRANSACTION = re.compile(r"DELETE FROM \S+ WHERE (id|family) = \? IF EXISTS")
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


def test_driver_retries_only_idempotent_statements(session: Session) -> None:
    """A statement that is not idempotent has a retry policy that never retries."""
    options = QueryOptions()
    for statement in statements():
        prepared = prepared_cache.get(session, statement, options)
        bound = bind(session, statement, [None] * len(prepared.column_metadata), options)
        assert bound.is_idempotent == statement.idempotent
        assert isinstance(bound.retry_policy, FallthroughRetryPolicy) == (not statement.idempotent)


# --- speculative execution ---------------------------------------------------------------------------------

# Seconds: the delay of speculative execution in these tests, and the time for which the first node does not answer.
DELAY, SILENCE = 0.2, 1.0


class TwoNodes:
    """A session that sees two nodes, and sends each statement to the first of them, which may be silent.

    Both nodes are the same Cassandra. The first one is behind the proxy.
    """

    def __init__(self, session: Session, proxy: TcpProxy) -> None:
        self.session = session
        self._proxy = proxy
        self._sent: list[ResponseFuture] = []
        session.add_request_init_listener(self._sent.append)

    def executions(self, execute: Callable[[], Any]) -> int:
        """Silence the first node for a second, and return to how many nodes the driver sent the statement."""
        self._sent.clear()
        self._proxy.pause(SILENCE)
        execute()
        self._proxy.resume()
        (future,) = self._sent
        return len(future.attempted_hosts)


@pytest.fixture
def two_nodes(settings: Settings, proxy: TcpProxy) -> Iterator[TwoNodes]:
    behind_proxy = {"cassandra_hosts": ("127.0.0.1",), "cassandra_port": proxy.port}
    session = db_connect.open_session(
        settings.model_copy(update=behind_proxy | {"cassandra_speculative_delay": DELAY}), settings.cassandra_keyspace
    )
    (first,) = session.hosts
    # The driver knows no tokens of this node, so all replicas are on the first one.
    direct = DefaultEndPoint(settings.cassandra_hosts[0], settings.cassandra_port)
    session.cluster.add_host(direct, datacenter=first.datacenter, refresh_nodes=False)
    wait_for(lambda: len(session.get_pool_state()) == 2, description="connections to both nodes")
    yield TwoNodes(session, proxy)
    proxy.resume()
    session.cluster.shutdown()


@pytest.fixture
def observer(two_nodes: TwoNodes) -> observers.Observer:
    """A stored observer. The statements of the tests are prepared, so that only their execution waits."""
    for statement in (INSERT_OBSERVER, SELECT_OBSERVER, DELETE_OBSERVER):
        prepared_cache.get(two_nodes.session, statement, QueryOptions())
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(two_nodes.session, [observer], QueryOptions())
    return observer


def test_reads_are_executed_speculatively(two_nodes: TwoNodes, observer: observers.Observer) -> None:
    """If a node does not answer a read in time, the driver also sends the read to another node."""
    session = two_nodes.session
    assert two_nodes.executions(lambda: observers.TABLE.retrieve(session, observer.id, QueryOptions())) == 2


@pytest.mark.parametrize("level", ["SERIAL", "LOCAL_SERIAL"])
def test_serial_reads_are_never_executed_speculatively(
    two_nodes: TwoNodes, observer: observers.Observer, level: str
) -> None:
    """A second execution would compete with the first one in Paxos."""
    session, options = two_nodes.session, QueryOptions(consistency_level=level)
    assert two_nodes.executions(lambda: observers.TABLE.retrieve(session, observer.id, options)) == 1
    bound = bind(session, SELECT_OBSERVER, (observer.id,), options)
    assert two_nodes.executions(lambda: receive(send(session, bound, options, "select_observer"))) == 1


def test_transactions_are_never_executed_speculatively(two_nodes: TwoNodes, observer: observers.Observer) -> None:
    """`DELETE ... IF EXISTS` is idempotent, so the driver may retry it after an error, but not while it waits."""
    session = two_nodes.session
    assert DELETE_OBSERVER.idempotent
    assert two_nodes.executions(lambda: observers.TABLE.delete(session, observer.id, None, QueryOptions())) == 1


def test_statements_that_are_not_idempotent_are_never_executed_speculatively(
    two_nodes: TwoNodes, observer: observers.Observer
) -> None:
    other = observers.TABLE.new(OBSERVER)
    assert two_nodes.executions(lambda: observers.TABLE.create(two_nodes.session, [other], QueryOptions())) == 1


def test_preparation_does_not_wait_for_a_silent_node(two_nodes: TwoNodes, proxy: TcpProxy) -> None:
    """The driver asks the nodes in turn, so one of the statements goes to the silent node first."""
    proxy.pause()
    for columns in (("id",), ("id", "name")):
        statement = SELECT_OBSERVER._replace(columns=columns)
        prepared_cache.get(two_nodes.session, statement, QueryOptions(deadline=time.monotonic() + 5))
