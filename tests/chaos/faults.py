"""What is done to the system while the load goes on. Each fault says when it began and ended, and what it excuses."""

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
from tests.chaos.history import Operation
from tests.chaos.load import Load
from tests.chaos.probe import Probe
from tests.chaos.system import Ring, Timing
from tests.support import Service, wait_for

# Requests that are acknowledged in a phase before the next one begins.
PHASE = 100


@dataclass
class Target:
    """What a fault is done to, and what it watches."""

    ring: Ring
    service: Service
    keyspace: str
    load: Load
    probe: Probe
    timing: Timing
    # Seconds for which nodes are paused, beyond what it takes to notice it.
    pause: float


@dataclass
class Fault:
    """What was done. Times are of `time.monotonic()`.

    :ivar ended: nothing more is done from then on; the time to recover is counted from here.
    :ivar down_until: one node was down, or paused, from the beginning until then.
    :ivar convicted: when the other nodes themselves had taken it for down; None if they had not by then.
    :ivar excuses: whether it explains that this request failed; what fails after the end is for the recovery.
    :ivar facts: what proves that it really happened, for the last lines of the report.
    """

    began: float
    ended: float = 0.0
    down_until: float | None = None
    convicted: float | None = None
    excuses: Callable[[Operation], bool] = lambda operation: True
    facts: list[str] = field(default_factory=list)


def kill_node(target: Target) -> Fault:
    """`kill -9` one node, go on without it, start it again."""
    node = target.ring.nodes[2]
    fault = Fault(time.monotonic())
    target.ring.kill(node)
    _wait_for_mark(target, fault)
    _wait_for_conviction(target, fault, [other for other in target.ring.nodes if other is not node])
    target.load.wait_for_acknowledged(2 * PHASE)
    fault.down_until = time.monotonic()
    node.start()
    node.wait_until_ready()
    fault.ended = time.monotonic()
    return fault


def pause_node(target: Target) -> Fault:
    """SIGSTOP one node: its connections stay open, and a third of all requests wait on it."""
    node = target.ring.nodes[1]
    fault = Fault(time.monotonic())
    target.ring.send(signal.SIGSTOP, node)
    try:
        time.sleep(target.timing.mark + target.pause)
    finally:
        fault.down_until = time.monotonic()
        target.ring.send(signal.SIGCONT, node)
    fault.ended = time.monotonic()
    return fault


def pause_all(target: Target) -> Fault:
    """SIGSTOP all nodes."""
    fault = Fault(time.monotonic())
    target.ring.send(signal.SIGSTOP, *target.ring.nodes)
    try:
        time.sleep(10)
    finally:
        target.ring.send(signal.SIGCONT, *target.ring.nodes)
    fault.ended = time.monotonic()
    return fault


def kill_worker(target: Target) -> Fault:
    """`kill -9` a gunicorn worker."""
    victim = target.service.workers()[0]
    fault = Fault(time.monotonic())
    os.kill(victim, signal.SIGKILL)
    fault.ended = time.monotonic()
    # A request that was begun before has met it; one that is begun later has no reason to.
    fault.excuses = lambda operation: operation.status is None and operation.started <= fault.ended
    wait_for(lambda: victim not in (now := target.service.workers()) and len(now) == 2, what="a new worker")
    httpx.get(f"http://127.0.0.1:{target.service.port}/health/live", timeout=5).raise_for_status()
    fault.facts.append(f"worker {victim} was killed, and replaced after {time.monotonic() - fault.ended:.1f} s")
    return fault


def restart_service(target: Target) -> Fault:
    """HUP to the gunicorn master: new workers, then the old ones end."""
    old = set(target.service.workers())
    fault = Fault(time.monotonic())
    target.service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: not old & set(target.service.workers()), 60, "the end of the old workers")
    fault.ended = time.monotonic()
    # A connection that is kept alive may be closed under a request that is just coming in.
    fault.excuses = lambda operation: operation.status is None
    httpx.get(f"http://127.0.0.1:{target.service.port}/health/live", timeout=5).raise_for_status()
    fault.facts.append(f"both workers were replaced within {fault.ended - fault.began:.1f} s")
    return fault


def forget_statements(target: Target) -> Fault:
    """Every node forgets its prepared statements, again and again, while the connections stay.

    A change of `gc_grace_seconds` invalidates what is prepared on a table. (A restart does it too, but then the driver
    prepares everything anew before it uses the node.)
    """
    with ExitStack() as stack:
        sessions = [stack.enter_context(target.ring.session(node)) for node in target.ring.nodes]
        return _alter(
            target,
            sessions,
            [
                f"ALTER TABLE {target.keyspace}.{table} WITH gc_grace_seconds = {864_000 - number}"
                for number in range(1, 4)
                for table in ("users", "animals")
            ],
        )


def add_column(target: Target) -> Fault:
    """A column more in the users' table."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(target.ring.session(node)) for node in target.ring.nodes]
        fault = _alter(target, sessions, [f"ALTER TABLE {target.keyspace}.users ADD nickname text"])
    # A node that has not heard of the column yet refuses reads that ask for it: the service may pass that on, in time.
    fault.excuses = lambda operation: operation.status in (503, 504)
    return fault


def _alter(target: Target, sessions: list[Session], statements: list[str]) -> Fault:
    """Runs DDL one by one, and proves that each node has forgotten a statement for the table in question."""
    fault = Fault(time.monotonic(), excuses=lambda operation: False)
    forgotten = 0
    for statement in statements:
        table = statement.split()[2]
        select = f"SELECT * FROM {table} LIMIT 1"
        prepared = [session.prepare(select) for session in sessions]
        assert all(map(_knows, sessions, prepared)), f"a node does not know what it has just prepared: {select}"
        future = sessions[0].execute_async(statement, timeout=60)
        future.result()
        assert future.is_schema_agreed, f"the nodes do not agree after {statement}"
        wait_for(lambda these=prepared: not any(map(_knows, sessions, these)), what=f"UNPREPARED after {statement}")
        forgotten += len(sessions)
        target.load.wait_for_acknowledged(PHASE // 2)
    fault.ended = time.monotonic()
    # The service's statement has to be there again, on each node.
    for session in sessions:
        wait_for(lambda session=session: _prepared_again(session, target.keyspace), what="statements prepared again")
    fault.facts.append(f"nodes answered UNPREPARED after each of {len(statements)} ALTER TABLE: {forgotten} times")
    return fault


def _knows(session: Session, prepared: PreparedStatement) -> bool:
    """Whether the node executes this id. The driver itself would prepare it again without a word."""
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


def _prepared_again(session: Session, keyspace: str) -> bool:
    rows = session.execute("SELECT query_string FROM system.prepared_statements")
    return any(row.query_string.startswith(f"UPDATE {keyspace}.users SET") for row in rows)


def _wait_for_mark(target: Target, fault: Fault) -> None:
    """Returns when the service has noticed that a node is down, which it must in time."""
    limit = target.timing.mark + 10
    at = wait_for(lambda: target.probe.marked_down(fault.began), limit, "a node marked down by all workers")
    fault.facts.append(f"all workers saw the node down {at - fault.began:.1f} s after the beginning")


def _wait_for_conviction(target: Target, fault: Fault, others: list[Node]) -> None:
    """Returns when the other nodes have taken the node for down, by their own failure detector.

    They have when they refuse a read at `ALL` at once. It takes them longer than the driver, which sees its connections
    closed: about 20 s. Until then a coordinator writes the log of a batch to both other nodes, reads a range from the
    dead one, and waits in vain.
    """
    with ExitStack() as stack:
        sessions = [stack.enter_context(target.ring.session(node)) for node in others]
        wait_for(lambda: all(_refuses(session, target.keyspace) for session in sessions), 90, "a conviction")
    fault.convicted = time.monotonic()
    fault.facts.append(f"the other nodes took it for down {fault.convicted - fault.began:.1f} s after the beginning")


def _refuses(session: Session, keyspace: str) -> bool:
    select = f"SELECT id FROM {keyspace}.users WHERE id = 00000000-0000-0000-0000-000000000000"
    try:
        session.execute(SimpleStatement(select, retry_policy=FallthroughRetryPolicy()), timeout=1)
    except Unavailable:
        return True
    except DriverException:
        return False
    return False
