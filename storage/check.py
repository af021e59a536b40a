"""Checks of the cluster before a release, for `flask --app api check`. They change nothing.

Each check yields its findings. An error of the driver ends a check, and is a finding too.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, Session
from cassandra.pool import Host
from cassandra.protocol import ErrorMessage
from cassandra.util import unix_time_from_uuid1

from settings import Settings
from storage.cql.consistency import default_level, serial_level
from storage.cql.driver import nodes_agree_on_schema, replica_sets, replication_factors
from storage.cql.quorum import can_be_met, local_datacenter, nodes_down, tolerates_a_failure
from storage.db_initialize import admin_session, server
from storage.schema import SchemaError, description, history, runner
from storage.schema.files import read_migrations
from storage.schema.transactions import use_keyspace

Status = Literal["ok", "warning", "failure", "skipped"]


class Finding(NamedTuple):
    """One line of the command.

    :ivar check: `settings`, `redis`, `broker`, `connection`, `consistency`, `schema`, `accounts` or `clocks`.
    :ivar message: says what was found; for a warning or a failure, also what to do.
    """

    check: str
    status: Status
    message: str


# What a check yields: status and message.
_Findings = Iterator[tuple[Status, str]]

# The series of Cassandra that the tests of the service ran on.
_TESTED = re.compile(r"(4\.1|5\.0)(\D|$)")

# Seconds to wait until all nodes have the same schema, for the first account, and for the clock of a node.
_AGREEMENT_TIMEOUT = 10.0
_ACCOUNT_TIMEOUT = 10.0
_CLOCK_TIMEOUT = 3.0
# The first request to a node may be slow. The fastest of these gives the most exact result.
_CLOCK_REQUESTS = 3

# Seconds. NTP keeps clocks within some 10 ms, so 0.5 s means that a clock is not synchronized: of two plain writes to a
# row within this time, the older one may win. After 5 s, even changes that a person makes one after the other are lost.
CLOCK_WARNING, CLOCK_FAILURE = 0.5, 5.0

# Transactions need a majority of the same replicas as these levels.
_MAJORITY = {"SERIAL": "QUORUM", "LOCAL_SERIAL": "LOCAL_QUORUM"}


def cluster_findings(settings: Settings) -> Iterator[Finding]:
    """Check the connection, the consistency levels, the schema and the clocks. A check that can't run is skipped."""
    try:
        with admin_session(settings) as session:
            yield from _run("connection", _connection, session, settings)
            keyspace = settings.cassandra_keyspace
            if keyspace in session.cluster.metadata.keyspaces:
                yield from _run("consistency", _consistency, session, settings)
                if _can_be_met(session, keyspace, "QUORUM"):
                    yield from _run("schema", _schema, session, settings)
                    yield from _run("accounts", _accounts, session, settings)
                else:
                    # Their queries have this level, and would be repeated until the time limit.
                    for check in ("schema", "accounts"):
                        yield Finding(check, "skipped", "needs a majority of the replicas")
            else:
                yield Finding("consistency", "skipped", "needs the keyspace")
                first = "Add it in the Astra console, then run" if settings.astra else "Run"
                message = f"There is no keyspace {keyspace}. {first}: flask --app api db upgrade"
                yield Finding("schema", "failure", message)
                yield Finding("accounts", "skipped", "needs the keyspace")
            yield from _run("clocks", _clocks, session, settings)
    except SchemaError as error:
        yield Finding("connection", "failure", str(error))
        for check in ("consistency", "schema", "accounts", "clocks"):
            yield Finding(check, "skipped", "needs a connection to Cassandra")


def _run(
    name: str, check: Callable[[Session, Settings], _Findings], session: Session, settings: Settings
) -> Iterator[Finding]:
    try:
        for status, message in check(session, settings):
            yield Finding(name, status, message)
    except (SchemaError, DriverException, NoHostAvailable, ErrorMessage) as error:
        yield Finding(name, "failure", f"The check can't be completed: {error}")


def _connection(session: Session, settings: Settings) -> _Findings:
    hosts = session.cluster.metadata.all_hosts()
    local = local_datacenter(session)
    counts = Counter((host.datacenter, _STATES[host.is_up]) for host in hosts)
    nodes = ", ".join(f"{count} {state} in {center}" for (center, state), count in sorted(counts.items(), key=str))
    yield "ok", f"connected to {server(settings)}; nodes: {nodes}"
    for host in sorted(nodes_down(session), key=str):
        yield "warning", f"node {host.address} in {host.datacenter} is down. Start it, or remove it from the cluster"
    if settings.cassandra_local_dc is None and len({host.datacenter for host in hosts}) > 1:
        yield (
            "warning",
            f"The cluster has several data centers, and {local} is used because its node answered first. Set "
            "CASSANDRA_LOCAL_DC to the data center of this instance",
        )
    yield from _versions({host.release_version for host in hosts if host.release_version})
    if settings.cassandra_password and not settings.cassandra_tls and not settings.astra:
        yield "warning", "The password is sent unencrypted. Set CASSANDRA_TLS=true, if the nodes support it"


_STATES = {True: "up", False: "down", None: "not connected"}


def _versions(versions: set[str]) -> _Findings:
    found = ", ".join(sorted(versions)) or "no version"
    if len(versions) > 1:
        yield "warning", f"The nodes have different versions: {found}. Complete the upgrade of the cluster"
    if versions and all(map(_TESTED.match, versions)):
        yield "ok", f"Cassandra {found}"
    else:
        yield (
            "warning",
            f"The nodes report {found}. The service was tested on Cassandra 4.1 and 5.0 only. ScyllaDB and Astra DB "
            "report versions of their own",
        )


def _consistency(session: Session, settings: Settings) -> _Findings:
    keyspace = settings.cassandra_keyspace
    if not session.cluster.metadata.keyspaces[keyspace].durable_writes:
        yield (
            "warning",
            "The keyspace has durable_writes = false: a node that fails loses its last writes. Run: ALTER KEYSPACE "
            f"{keyspace} WITH durable_writes = true",
        )
    factors, sets = replication_factors(session, keyspace), replica_sets(session, keyspace)
    if not factors or not sets:
        yield "warning", "The driver does not know the replicas of this keyspace, so the levels were not compared"
        return
    counts = Counter(host.datacenter for host in session.cluster.metadata.all_hosts())
    yield from replication_findings(factors, dict(counts), serial_level(session))
    local, down = local_datacenter(session), nodes_down(session)
    replicas = ", ".join(f"{count} in {center or 'all data centers'}" for center, count in factors.items())
    for level in (default_level(session), serial_level(session)):
        arguments = (_MAJORITY.get(level, level), local, tuple(factors.items()), sets)
        if not can_be_met(*arguments, frozenset()):
            yield (
                "failure",
                f"{level} can't be met with these replicas: {replicas}; local data center: {local}. Change the "
                "replication of the keyspace, then run nodetool repair --full; or choose another level",
            )
        elif not can_be_met(*arguments, down):
            yield "failure", f"{level} can't be met for every row now; nodes down: {len(down)}. Start them"
        elif not tolerates_a_failure(*arguments):
            yield (
                "warning",
                f"{level} can be met, but not after one node fails. Replicas: {replicas}. Three replicas in the local "
                "data center tolerate a failure with LOCAL_QUORUM",
            )
        else:
            yield "ok", f"{level} can be met for every row, also after one node fails. Replicas: {replicas}"


def _can_be_met(session: Session, keyspace: str, level: str) -> bool:
    """Whether a level can be met now, or the replicas are not known."""
    factors, sets = replication_factors(session, keyspace), replica_sets(session, keyspace)
    return not sets or can_be_met(level, local_datacenter(session), tuple(factors.items()), sets, nodes_down(session))


def replication_findings(factors: dict[str | None, int], nodes: dict[str, int], serial: str) -> _Findings:
    """Compare the replication of a keyspace with the nodes.

    :param factors: data centers, each with its number of replicas; the name None stands for SimpleStrategy.
    :param nodes: data centers, each with its number of nodes.
    :param serial: the serial consistency level.
    """
    for center, count in factors.items():
        available = sum(nodes.values()) if center is None else nodes.get(center, 0)
        if count > available:
            yield (
                "failure",
                f"The keyspace has {count} replicas in {center or 'all data centers'}, which has {available} nodes. "
                "Add nodes, or lower the replication factor (ALTER KEYSPACE)",
            )
    if None in factors and len(nodes) > 1:
        yield (
            "warning",
            "SimpleStrategy ignores data centers, and this cluster has several. Change the keyspace to "
            "NetworkTopologyStrategy, then run nodetool repair --full",
        )
    if serial == "LOCAL_SERIAL" and len(nodes if None in factors else factors) > 1:
        yield (
            "warning",
            "LOCAL_SERIAL orders transactions within one data center only. If several data centers write the same "
            "rows, set CASSANDRA_SERIAL_CONSISTENCY_LEVEL=SERIAL",
        )


def _schema(session: Session, settings: Settings) -> _Findings:
    if not nodes_agree_on_schema(session, _AGREEMENT_TIMEOUT):
        yield "failure", "The nodes do not agree on the schema. Find the differing nodes: nodetool describecluster"
        return
    use_keyspace(session, settings.cassandra_keyspace)
    entries = history.read(session)
    if pending := runner.pending(read_migrations(), entries):
        for name in pending:
            state = "was interrupted" if name in entries and entries[name].is_partial else "is pending"
            yield "failure", f"migration {name} {state}. Run: flask --app api db upgrade"
        # Before the migrations are applied, the keyspace differs in many ways.
        return
    found = description.check(session, settings.cassandra_keyspace, with_options=not settings.astra)
    for difference in found.differences:
        yield "failure", f"{difference}. Correct the keyspace, or add a migration"
    if not found.differences:
        yield "ok", f"keyspace {settings.cassandra_keyspace} is as this version expects it"
    for note in found.notes:
        yield "ok", f"note: {note}"


def _accounts(session: Session, settings: Settings) -> _Findings:
    keyspace = settings.cassandra_keyspace
    if "accounts" not in session.cluster.metadata.keyspaces[keyspace].tables:
        yield "skipped", "needs the table accounts"
    elif session.execute(f"SELECT email FROM {keyspace}.accounts LIMIT 1", timeout=_ACCOUNT_TIMEOUT).one():
        yield "ok", "at least one account exists"
    elif settings.sign_in == "off" or settings.is_registration_open:
        yield "ok", "no account exists; clients can work without one or register"
    else:
        yield (
            "warning",
            "No account exists, so nobody can sign in. Run: flask --app api accounts create ADDRESS --operator",
        )


def _clocks(session: Session, settings: Settings) -> _Findings:
    local = local_datacenter(session)
    hosts = sorted(session.cluster.metadata.all_hosts(), key=str)
    for host in hosts:
        if host.datacenter == local:
            yield _clock(session, host)
    if others := sorted({host.datacenter for host in hosts if host.datacenter != local}, key=str):
        yield "ok", f"The nodes of {', '.join(map(str, others))} were not asked: run this command there too"


def _clock(session: Session, host: Host) -> tuple[Status, str]:
    measured = []
    try:
        for _ in range(_CLOCK_REQUESTS):
            sent, started = time.time(), time.monotonic()
            (now,) = session.execute("SELECT now() FROM system.local", timeout=_CLOCK_TIMEOUT, host=host).one()
            round_trip = time.monotonic() - started
            # The node read its clock at an unknown time within the round trip.
            measured.append((round_trip / 2, unix_time_from_uuid1(now) - sent - round_trip / 2))
    except (DriverException, NoHostAvailable, ErrorMessage) as error:
        return "warning", f"node {host.address} can't be asked for its time: {error}"
    uncertainty, offset = min(measured)
    return clock_finding(host.address, offset, uncertainty)


def clock_finding(node: str, offset: float, uncertainty: float) -> tuple[Status, str]:
    """Judge the clock of a node by the least difference that the measurement allows.

    :param offset: seconds by which the clock of the node is ahead of this machine's.
    :param uncertainty: half the round trip, in seconds.
    """
    difference = abs(offset) - uncertainty
    text = f"clock of node {node}: {round(offset * 1000):+,} ms ± {uncertainty * 1000:,.0f} ms"
    if difference > CLOCK_WARNING:
        status: Status = "failure" if difference > CLOCK_FAILURE else "warning"
        return status, f"{text}. Synchronize the clocks of the node and of this machine (NTP)"
    if uncertainty > CLOCK_WARNING:
        return "warning", f"{text}. The node answers too slowly for an exact result. Run the check again"
    return "ok", text
