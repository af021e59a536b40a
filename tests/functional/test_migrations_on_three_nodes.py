"""A cluster of three nodes: several runners of migrations at once, batches of imports, and one node down."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cassandra.cluster import ResponseFuture, Session
from cassandra.query import BatchStatement

from dev.local_cassandra.node import STATE, TEST_JAVA_OPTIONS, TEST_SETTINGS
from dev.local_cassandra.ring import ADDRESSES, Ring
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from storage.cql.bulk_write import PackedRows, row_binder, write_rows
from storage.errors import StorageError
from storage.schema import history, lock
from storage.schema.files import read_migrations
from storage.schema.transactions import table_id
from tests.support import copy_project, unmeasured_environment, wait_for
from tests.testbed import database
from tests.testbed.db_io.finds import INSERT_FIND

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RUNNERS = 5
# Rows of an import, and bytes of each at most.
FINDS, FIND_BYTES = 3000, 100
NEW_COLUMN = "ALTER TABLE birds ADD age int;\n"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    directory = STATE / f"tests-ring-{tmp_path_factory.getbasetemp().name}"
    ring = Ring(directory, TEST_SETTINGS, TEST_JAVA_OPTIONS)
    try:
        ring.start()
        yield ring
    finally:
        ring.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with two more migrations, of which the second can't be executed twice."""
    directory = tmp_path_factory.mktemp("project")
    copy_project(directory)
    migrations = directory / "storage" / "migrations"
    number = len(read_migrations()) + 1
    (migrations / f"{number:04}_birds.cql").write_text("CREATE TABLE birds (name text PRIMARY KEY);\n")
    (migrations / f"{number + 1:04}_age.cql").write_text(NEW_COLUMN)
    return directory


def start_upgrade(project: Path, ring: Ring, keyspace: str, first: str) -> subprocess.Popen[str]:
    """Start `flask --app api db upgrade`.

    :param first: address of the node to which it connects first.
    """
    hosts = [first, *(address for address in ADDRESSES if address != first)]
    variables = {
        "APP_ENV": "production",
        "CASSANDRA_HOSTS": ",".join(hosts),
        "CASSANDRA_PORT": str(ring.port),
        "CASSANDRA_KEYSPACE": keyspace,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "api", "db", "upgrade"],
        cwd=project,
        env=unmeasured_environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_five_runners_at_once_apply_each_migration_once(ring: Ring, project: Path) -> None:
    """They start with an empty cluster: the keyspace, the lock and the history do not exist yet."""
    runners = [start_upgrade(project, ring, "five", ADDRESSES[number % 3]) for number in range(RUNNERS)]
    printed = [runner.communicate(timeout=200)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0] * RUNNERS, "\n".join(printed)
    lines = "".join(printed).splitlines()
    for migration in read_migrations(project / "storage" / "migrations"):
        assert lines.count(f"migration {migration.name}: applied") == 1
        assert lines.count(f"migration {migration.name}: applied already") == RUNNERS - 1
    for node in ring.nodes:
        with ring.session(node) as session:
            session.execute("INSERT INTO five.birds (name, age) VALUES ('owl', 3)")
            assert session.execute("SELECT age FROM five.birds").one() == (3,)
            ids = dict(
                session.execute("SELECT table_name, id FROM system_schema.tables WHERE keyspace_name = 'five'").all()
            )
        for table in (lock.TABLE, history.TABLE):
            assert ids[table] == table_id("five", table)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_rows_of_an_import_share_a_batch_if_they_have_the_same_replicas(ring: Ring, replicas: int) -> None:
    """In this module, because a second cluster would take two minutes to start. One of the replicas coordinates."""
    settings = Settings(
        app_env="development",
        cassandra_hosts=",".join(ADDRESSES),
        cassandra_port=ring.port,
        # Otherwise a node without the rows may get a batch too.
        cassandra_speculative_delay=0,
    )
    keyspace = f"bulk_{replicas}"
    with db_connect.cluster_context(settings) as cluster:
        with db_connect.session_context(cluster, settings, None) as admin:
            replication = f"{{'class': 'NetworkTopologyStrategy', 'datacenter1': {replicas}}}"
            admin.execute(f"CREATE KEYSPACE {keyspace} WITH replication = {replication}", timeout=60)
            database.create_tables(admin, keyspace)
        with db_connect.session_context(cluster, settings, keyspace, wait_for_all_pools=True) as session:
            batches = written_batches(session)
            assert session.execute("SELECT COUNT(*) FROM finds", timeout=60).one()[0] == FINDS
    replica_sets = []
    for future in batches:
        genera = [values[0] for _, _, values in future.query._statements_and_parameters]
        (nodes,) = {frozenset(cluster.metadata.get_replicas(keyspace, genus)) for genus in genera}
        assert len(nodes) == replicas
        assert future.coordinator_host in nodes
        replica_sets.append(nodes)
    assert sum(len(future.query._statements_and_parameters) for future in batches) == FINDS
    assert len(set(replica_sets)) == (1 if replicas == 3 else 3)
    # Each group has one batch that is not full.
    assert len(batches) <= FINDS * FIND_BYTES // 40_000 + 3


def written_batches(session: Session) -> list[ResponseFuture]:
    """Write finds of different genera, and return the futures of the batches."""
    bind = row_binder(session, INSERT_FIND, QueryOptions())
    rows = [bind((f"Genus {number}", "species", number)) for number in range(FINDS)]
    packed = PackedRows(INSERT_FIND.columns, rows)
    sent: list[ResponseFuture] = []
    session.add_request_init_listener(sent.append)

    def is_written() -> bool:
        sent.clear()
        try:
            write_rows(session, INSERT_FIND, packed, QueryOptions(timeout=30))
        except StorageError:
            # A node that has just started may answer too late.
            return False
        return True

    wait_for(is_written, description="the rows")
    return [future for future in sent if isinstance(future.query, BatchStatement)]


def test_upgrade_with_one_node_down(ring: Ring, project: Path) -> None:
    """The other two nodes form a quorum and agree on the schema."""
    ring.kill(ring.nodes[2])
    runner = start_upgrade(project, ring, "two_of_three", ADDRESSES[0])
    printed, _ = runner.communicate(timeout=200)
    assert runner.returncode == 0, printed
    assert all(f"migration {each.name}: applied" in printed for each in read_migrations(project / "storage/migrations"))
