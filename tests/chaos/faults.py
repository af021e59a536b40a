"""Fault injection: each function injects one fault under load and returns when it began and ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
from cassandra import DriverException, Unavailable
from cassandra.cluster import Session
from cassandra.policies import FallthroughRetryPolicy
from cassandra.protocol import ExecuteMessage, PreparedQueryNotFound
from cassandra.query import PreparedStatement, SimpleStatement

from dev.local_cassandra.node import Node
from dev.local_cassandra.ring import Ring
from tests.chaos.history import Operation
from tests.chaos.load import Load
from tests.chaos.probe import Probe
from tests.chaos.system import Timing
from tests.support import Service, wait_for

# Acknowledged requests in a phase of a scenario, before the next phase begins.
PHASE_REQUESTS = 100


@dataclass
class Target:
    """The system under test, its load and its probe.

    :ivar pause: seconds for which a node stays paused after it must have been detected.
    """

    ring: Ring
    service: Service
    keyspace: str
    load: Load
    probe: Probe
    timing: Timing
    pause: float


@dataclass
class Fault:
    """An injected fault. Times are values of `time.monotonic()`.

    :ivar ended: the end of the injection; the recovery time is counted from here.
    :ivar down_until: one node was down or paused from `began` until this time.
    :ivar peers_detected_at: when the other nodes had marked the node down; None if they did not.
    :ivar explains: returns whether the fault explains a failed request. Requests that begin after `ended` are
        covered by the recovery bound instead.
    :ivar facts: evidence that the fault took place, printed below the table.
    """

    began: float
    ended: float = 0.0
    down_until: float | None = None
    peers_detected_at: float | None = None
    explains: Callable[[Operation], bool] = lambda operation: True
    facts: list[str] = field(default_factory=list)


def kill_node(target: Target) -> Fault:
    """Kill one node with SIGKILL, run the load on two nodes, and restart the node."""
    node = target.ring.nodes[2]
    fault = Fault(time.monotonic())
    target.ring.kill(node)
    _wait_for_detection(target, fault)
    health = httpx.get(f"http://127.0.0.1:{target.service.port}/health", timeout=5).json()
    assert health["quorum"], "/health reports no quorum although two of three replicas are up"
    _wait_for_peer_detection(target, fault, [other for other in target.ring.nodes if other is not node])
    target.load.wait_for_acknowledged(2 * PHASE_REQUESTS)
    fault.down_until = time.monotonic()
    node.start()
    node.wait_until_ready()
    fault.ended = time.monotonic()
    return fault


def pause_node(target: Target) -> Fault:
    """Pause one node with SIGSTOP.

    Its connections stay open, and a third of all requests wait for it.
    """
    node = target.ring.nodes[1]
    fault = Fault(time.monotonic())
    target.ring.send_signal(signal.SIGSTOP, node)
    try:
        time.sleep(target.timing.detection + target.pause)
    finally:
        fault.down_until = time.monotonic()
        target.ring.send_signal(signal.SIGCONT, node)
    fault.ended = time.monotonic()
    return fault


def pause_all(target: Target) -> Fault:
    """Pause all nodes with SIGSTOP for 10 seconds."""
    fault = Fault(time.monotonic())
    target.ring.send_signal(signal.SIGSTOP, *target.ring.nodes)
    try:
        time.sleep(10)
    finally:
        target.ring.send_signal(signal.SIGCONT, *target.ring.nodes)
    fault.ended = time.monotonic()
    return fault


def kill_worker(target: Target) -> Fault:
    """Kill a gunicorn worker with SIGKILL."""
    victim = target.service.workers()[0]
    fault = Fault(time.monotonic())
    os.kill(victim, signal.SIGKILL)
    fault.ended = time.monotonic()
    # The kill explains only lost connections of requests that began before it.
    fault.explains = lambda operation: operation.status is None and operation.started <= fault.ended
    wait_for(lambda: victim not in (now := target.service.workers()) and len(now) == 2, description="a new worker")
    httpx.get(f"http://127.0.0.1:{target.service.port}/health/live", timeout=5).raise_for_status()
    fault.facts.append(f"gunicorn replaced the killed worker {victim} after {time.monotonic() - fault.ended:.1f} s")
    return fault


def reload_service(target: Target) -> Fault:
    """Send SIGHUP to the gunicorn master: it starts new workers and shuts the old workers down."""
    old = set(target.service.workers())
    fault = Fault(time.monotonic())
    target.service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: not old & set(target.service.workers()), 60, "the shutdown of the old workers")
    fault.ended = time.monotonic()
    # An old worker may close a keep-alive connection at the moment when the client sends the next request on it.
    fault.explains = lambda operation: operation.status is None
    httpx.get(f"http://127.0.0.1:{target.service.port}/health/live", timeout=5).raise_for_status()
    fault.facts.append(f"gunicorn replaced both workers within {fault.ended - fault.began:.1f} s")
    return fault


def discard_statements(target: Target) -> Fault:
    """Make every node discard its prepared statements several times, while connections stay open.

    A change of `gc_grace_seconds` invalidates the prepared statements of a table. A restart of the node would also
    invalidate them, but then the driver prepares all statements again before it uses the node.
    """
    with ExitStack() as stack:
        sessions = [stack.enter_context(target.ring.session(node)) for node in target.ring.nodes]
        return _alter(
            target,
            sessions,
            [
                f"ALTER TABLE {target.keyspace}.{table} WITH gc_grace_seconds = {864_000 - number}"
                for number in range(1, 4)
                for table in ("observers", "finds")
            ],
        )


def add_column(target: Target) -> Fault:
    """Add a column to the observers table."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(target.ring.session(node)) for node in target.ring.nodes]
        fault = _alter(target, sessions, [f"ALTER TABLE {target.keyspace}.observers ADD nickname text"])
    # A node that does not know the new column yet fails reads that select it. The service returns 503 or 504 then.
    fault.explains = lambda operation: operation.status in (503, 504)
    return fault


def _alter(target: Target, sessions: list[Session], statements: list[str]) -> Fault:
    """Run DDL statements one by one, and verify that each discards the prepared statements on every node."""
    fault = Fault(time.monotonic(), explains=lambda operation: False)
    unprepared = 0
    for statement in statements:
        table = statement.split()[2]
        select = f"SELECT * FROM {table} LIMIT 1"
        prepared = [session.prepare(select) for session in sessions]
        assert all(map(_is_prepared, sessions, prepared)), f"a node lost a new prepared statement: {select}"
        future = sessions[0].execute_async(statement, timeout=60)
        future.result()
        assert future.is_schema_agreed, f"no schema agreement after {statement}"
        wait_for(
            lambda ids=prepared: not any(map(_is_prepared, sessions, ids)), description=f"UNPREPARED after {statement}"
        )
        unprepared += len(sessions)
        target.load.wait_for_acknowledged(PHASE_REQUESTS // 2)
    fault.ended = time.monotonic()
    # The driver must have prepared the service's statement again on each node.
    for session in sessions:
        wait_for(
            lambda session=session: _has_service_statement(session, target.keyspace),
            description="a prepared UPDATE",
        )
    fault.facts.append(f"nodes returned UNPREPARED {unprepared} times, after each of {len(statements)} ALTER TABLE")
    return fault


def _is_prepared(session: Session, prepared: PreparedStatement) -> bool:
    """Return whether the node still knows a prepared statement.

    `Session.execute` would prepare it again silently.
    """
    (host,) = [host for host in session.hosts if host.is_up and session.get_pool_state().get(host)]
    connection = session.cluster.connection_factory(host.endpoint)
    try:
        message = ExecuteMessage(prepared.query_id, [], 1, result_metadata_id=prepared.result_metadata_id)
        connection.wait_for_response(message, timeout=10)
    except PreparedQueryNotFound:
        return False
    finally:
        connection.close()
    return True


def _has_service_statement(session: Session, keyspace: str) -> bool:
    rows = session.execute("SELECT query_string FROM system.prepared_statements")
    return any(row.query_string.startswith(f"UPDATE {keyspace}.observers SET") for row in rows)


def _wait_for_detection(target: Target, fault: Fault) -> None:
    """Wait until all workers report that a node is down."""
    timeout = target.timing.detection + 10
    detected_at = wait_for(lambda: target.probe.detected_at(fault.began), timeout, "a node marked down by all workers")
    fault.facts.append(f"all workers marked the node down {detected_at - fault.began:.1f} s after the fault began")


def _wait_for_peer_detection(target: Target, fault: Fault, others: list[Node]) -> None:
    """Wait until the other nodes have marked the node down, by their own failure detector.

    From then on these nodes refuse a read at `ALL` at once. Their detection takes about 20 s, longer than that of the
    driver, which sees its connections close. Until the detection a coordinator writes the batch log to both other
    nodes, reads ranges from the dead node, and waits for responses that do not come.
    """
    with ExitStack() as stack:
        sessions = [stack.enter_context(target.ring.session(node)) for node in others]
        wait_for(
            lambda: all(_refuses_reads_at_all(session, target.keyspace) for session in sessions),
            90,
            "the node marked down by the other nodes",
        )
    fault.peers_detected_at = time.monotonic()
    elapsed = fault.peers_detected_at - fault.began
    fault.facts.append(f"the other nodes marked the node down {elapsed:.1f} s after the fault began")


def _refuses_reads_at_all(session: Session, keyspace: str) -> bool:
    """Return whether a node refuses a read at `ALL` at once, because it has marked a replica down."""
    select = f"SELECT id FROM {keyspace}.observers WHERE id = 00000000-0000-0000-0000-000000000000"
    try:
        session.execute(SimpleStatement(select, retry_policy=FallthroughRetryPolicy()), timeout=1)
    except Unavailable:
        return True
    except DriverException:
        return False
    return False
