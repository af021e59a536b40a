"""Self-tests of the consistency check: damage rows directly in the table.

The check must report exactly these rows.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cassandra.cluster import Session

from dev.local_cassandra.ring import Ring, wait_until_nodes_see_each_other
from tests.chaos.check import check_consistency
from tests.chaos.faults import Target
from tests.chaos.history import Creation, Finding, History
from tests.chaos.load import Load
from tests.chaos.scenarios import ScenarioResult
from tests.chaos.system import Timing, running_service
from tests.support import Service, wait_for

REPORTED = "reported, as required"
_ONE_REPLICA = "faults_one_replica"


@dataclass(frozen=True)
class _Damage:
    """One kind of damage.

    :ivar kind: kind of the expected finding.
    :ivar reported_by_id: the finding names the observer's id; otherwise it names the e-mail address.
    """

    name: str
    kind: str
    apply: Callable[[Session, str, Creation], None]
    reported_by_id: bool = True


def _delete(session: Session, keyspace: str, creation: Creation) -> None:
    session.execute(f"DELETE FROM {keyspace}.observers WHERE id = %s", (_id(creation),))


def _change(session: Session, keyspace: str, creation: Creation) -> None:
    session.execute(f"UPDATE {keyspace}.observers SET name = 'Nobody' WHERE id = %s", (_id(creation),))


def _duplicate(session: Session, keyspace: str, creation: Creation) -> None:
    insert = f"INSERT INTO {keyspace}.observers (id, name, email, age, created_at, updated_at, version) "
    fields = creation.fields
    session.execute(
        insert + "VALUES (%s, %s, %s, %s, toTimestamp(now()), toTimestamp(now()), uuid())",
        (uuid.uuid4(), fields.name, fields.email, fields.age),
    )


_DAMAGES = (
    _Damage("self-test: acknowledged observer deleted", "lost", _delete),
    _Damage("self-test: acknowledged observer changed", "unexplained", _change),
    _Damage("self-test: second observer for one key", "duplicate", _duplicate, reported_by_id=False),
)


def damage_rows(target: Target, history: History) -> list[ScenarioResult]:
    """Delete one acknowledged observer, change one and duplicate one. Expect exactly three findings."""
    settled = [
        creation
        for creation in history.creations.values()
        if creation.row is not None and len(creation.row.states) == 1 and None not in creation.row.states
    ]
    with_key = next(creation for creation in settled if creation.key is not None and creation.batch is None)
    others = [creation for creation in settled if creation is not with_key][:2]
    known = set(history.findings())
    victims = [*others, with_key]
    with target.ring.session() as session:
        for damage, victim in zip(_DAMAGES, victims, strict=True):
            damage.apply(session, target.keyspace, victim)
    checked = check_consistency(target.ring, target.service, target.keyspace, history)
    found = [finding for finding in history.findings() if finding not in known]
    results = []
    for damage, victim in zip(_DAMAGES, victims, strict=True):
        subject = str(_id(victim)) if damage.reported_by_id else victim.email
        expected = [finding for finding in found if (finding.kind, finding.subject) == (damage.kind, subject)]
        found = [finding for finding in found if finding not in expected]
        problems = [] if expected else [f"not reported: {damage.kind} {subject}"]
        results.append(_result(damage.name, checked, expected, problems))
    results[-1].problems += [f"reported without damage: {finding}" for finding in found]
    return results


def lose_only_replica(ring: Ring, timing: Timing, directory: Path) -> ScenarioResult:
    """Wipe a node that holds the only replica of its rows.

    The check must report exactly the observers on it as lost. While the node is down, /health must report no quorum.
    """
    history = History()
    with running_service(ring, _ONE_REPLICA, 1, timing, directory) as service:
        load = Load(f"http://127.0.0.1:{service.port}", history, clients=4)
        try:
            with load.running():
                load.wait_for_acknowledged(200)
        finally:
            load.close()
        node = ring.nodes[2]
        wiped = _observers_on_node(ring, node.address, history)
        ring.kill(node)
        # The other nodes answer, so the instance is ready, but no node has the rows of the killed one.
        wait_for(lambda: service.healthy() and not _quorum(service), timing.detection + 30, "no quorum on /health")
        # Keep the system keyspaces, so that the node rejoins the ring with its identity.
        shutil.rmtree(node.directory / "data" / _ONE_REPLICA)
        shutil.rmtree(node.directory / "commitlog")
        node.start()
        node.wait_until_ready()
        wait_until_nodes_see_each_other(ring.nodes)
        wait_for(lambda: service.healthy() and _quorum(service), timing.recovery + 30, "the service on one replica")
        checked = check_consistency(ring, service, _ONE_REPLICA, history)
    findings = history.findings()
    reported = {finding.subject for finding in findings if finding.kind == "lost" and "species" not in finding.subject}
    problems = [f"not reported: lost {id_}" for id_ in wiped - reported]
    problems += [f"reported, but not on the wiped node: {id_}" for id_ in reported - wiped]
    problems += [f"reported without damage: {finding}" for finding in findings if finding.kind != "lost"]
    if not wiped:
        problems.append("the wiped node held no observer, so the self-test shows nothing")
    result = _result("self-test: only replica killed and wiped", checked, findings, problems)
    result.operations = len(history.operations)
    result.facts.append(
        f"{len(wiped)} of {len(history.creations)} observers were on the wiped node, "
        f"{len(reported)} are reported as lost"
    )
    return result


def _quorum(service: Service) -> bool:
    return bool(service.client.get("/health").json()["quorum"])


def _observers_on_node(ring: Ring, address: str, history: History) -> set[str]:
    """Return the ids of the observers that certainly exist and whose only replica is this node."""
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


def _result(name: str, checked: int, findings: list[Finding], problems: list[str]) -> ScenarioResult:
    result = ScenarioResult(name, checked=checked, verdict_if_passed=REPORTED, problems=problems)
    result.count([], findings)
    result.facts += [f"{finding.kind}: {finding.subject}: {finding.detail}" for finding in findings[:1]]
    return result


def _id(creation: Creation) -> uuid.UUID:
    assert creation.row is not None
    return uuid.UUID(creation.row.id)
