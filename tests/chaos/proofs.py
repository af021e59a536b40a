"""Proofs that the check can fail: damage behind the service's back, all of which it must report, and nothing else."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cassandra.cluster import Session

from dev.local_cassandra.__main__ import wait_until_acquainted
from tests.chaos.check import verify
from tests.chaos.faults import Target
from tests.chaos.history import Creation, Finding, History
from tests.chaos.load import Load
from tests.chaos.scenarios import Line
from tests.chaos.system import Ring, Timing, running_service
from tests.support import wait_for

REPORTED = "reported, as it must be"
_ONE_REPLICA = "faults_one_replica"


@dataclass(frozen=True)
class _Damage:
    name: str
    kind: str
    do: Callable[[Session, str, Creation], None]
    by_id: bool = True


def _delete(session: Session, keyspace: str, creation: Creation) -> None:
    session.execute(f"DELETE FROM {keyspace}.users WHERE id = %s", (_id(creation),))


def _change(session: Session, keyspace: str, creation: Creation) -> None:
    session.execute(f"UPDATE {keyspace}.users SET name = 'Nobody' WHERE id = %s", (_id(creation),))


def _repeat(session: Session, keyspace: str, creation: Creation) -> None:
    insert = f"INSERT INTO {keyspace}.users (id, name, email, age, created_at, updated_at, version) "
    fields = creation.fields
    session.execute(
        insert + "VALUES (%s, %s, %s, %s, toTimestamp(now()), toTimestamp(now()), uuid())",
        (uuid.uuid4(), fields.name, fields.email, fields.age),
    )


_DAMAGES = (
    _Damage("proof: acknowledged row deleted behind its back", "lost", _delete),
    _Damage("proof: value that nobody wrote", "unexplained", _change),
    _Damage("proof: second user under one key", "duplicate", _repeat, by_id=False),
)


def damaged_rows(target: Target, history: History) -> list[Line]:
    """Deletes, changes and doubles an acknowledged row each, directly, and expects three findings."""
    settled = [
        creation
        for creation in history.creations.values()
        if creation.row is not None and len(creation.row.states) == 1 and None not in creation.row.states
    ]
    keyed = next(creation for creation in settled if creation.key is not None and creation.batch is None)
    plain = [creation for creation in settled if creation is not keyed][:2]
    known = set(history.findings())
    victims = [*plain, keyed]
    with target.ring.session() as session:
        for damage, victim in zip(_DAMAGES, victims, strict=True):
            damage.do(session, target.keyspace, victim)
    checked = verify(target.ring, target.service, target.keyspace, history)
    found = [finding for finding in history.findings() if finding not in known]
    lines = []
    for damage, victim in zip(_DAMAGES, victims, strict=True):
        subject = str(_id(victim)) if damage.by_id else victim.email
        mine = [finding for finding in found if (finding.kind, finding.subject) == (damage.kind, subject)]
        found = [finding for finding in found if finding not in mine]
        lines.append(_line(damage.name, checked, mine, [] if mine else [f"{damage.kind} {subject}: not reported"]))
    lines[-1].problems += [f"not done, but reported: {finding}" for finding in found]
    lines[-1].judge()
    return lines


def lost_replica(ring: Ring, timing: Timing, directory: Path) -> Line:
    """One replica only, and its node loses data and commit log: every user that it held must be reported, no other."""
    history = History()
    with running_service(ring, _ONE_REPLICA, 1, timing, directory) as service:
        load = Load(f"http://127.0.0.1:{service.port}", history, clients=4)
        try:
            with load.running():
                load.wait_for_acknowledged(200)
        finally:
            load.close()
        node = ring.nodes[2]
        gone = _users_of(ring, node.address, history)
        ring.kill(node)
        # What the node knows of itself and the ring stays, so that it comes back as who it was.
        shutil.rmtree(node.directory / "data" / _ONE_REPLICA)
        shutil.rmtree(node.directory / "commitlog")
        node.start()
        node.wait_until_ready()
        wait_until_acquainted(ring.nodes)
        wait_for(service.healthy, timing.recovery + 30, "the service on one replica")
        checked = verify(ring, service, _ONE_REPLICA, history)
    findings = history.findings()
    users = {finding.subject for finding in findings if finding.kind == "lost" and "species" not in finding.subject}
    problems = [f"lost {id_}: not reported" for id_ in gone - users]
    problems += [f"not lost, but reported: {id_}" for id_ in users - gone]
    problems += [f"not done, but reported: {finding}" for finding in findings if finding.kind != "lost"]
    if not gone:
        problems.append("the node held no user: nothing was proved")
    line = _line("proof: only replica killed and wiped", checked, findings, problems)
    line.operations = len(history.operations)
    line.facts.append(
        f"{len(gone)} of {len(history.creations)} users were on the wiped node, {len(users)} are reported"
    )
    return line


def _users_of(ring: Ring, address: str, history: History) -> set[str]:
    """Ids of the users that are there for certain, on this node alone."""
    with ring.session() as session:
        metadata = session.cluster.metadata
        return {
            creation.row.id
            for creation in history.creations.values()
            if creation.row is not None
            and None not in creation.row.states
            and [host.address for host in metadata.get_replicas(_ONE_REPLICA, uuid.UUID(creation.row.id).bytes)]
            == [address]
        }


def _line(name: str, checked: int, findings: list[Finding], problems: list[str]) -> Line:
    line = Line(name, checked=checked, verdict=REPORTED, problems=problems)
    line.count([], findings)
    line.facts += [f"{finding.kind}: {finding.subject}: {finding.detail}" for finding in findings[:1]]
    line.judge()
    return line


def _id(creation: Creation) -> uuid.UUID:
    assert creation.row is not None
    return uuid.UUID(creation.row.id)
