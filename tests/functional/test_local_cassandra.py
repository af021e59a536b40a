"""The development node: what `kill -9` loses, and which process `stop` ends."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cassandra.cluster import Cluster

from dev.local_cassandra import node as node_module
from dev.local_cassandra.node import FAST_COMPILER, STATE, Node, free_port
from tests.support import wait_for


@pytest.fixture
def own_node() -> Iterator[Node]:
    """A node that the test may kill, with the settings of `make run` and on free ports."""
    directory = STATE / f"tests-{os.getpid()}-kill"
    node = Node(directory=directory, native_port=free_port(), storage_port=free_port(), java_options=FAST_COMPILER)
    try:
        node.start()
        node.wait_until_ready()
        yield node
    finally:
        node.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
def test_killed_node_loses_no_acknowledged_write(own_node: Node) -> None:
    """After 500 acknowledged inserts, `kill -9` and a restart, all 500 rows are there."""
    ids = [uuid.uuid4() for _ in range(500)]
    cluster = Cluster(["127.0.0.1"], port=own_node.native_port, protocol_version=4)
    try:
        session = cluster.connect()
        replication = "{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}"
        session.execute(f"CREATE KEYSPACE killed WITH replication = {replication}", timeout=60)
        session.execute("CREATE TABLE killed.rows (id uuid PRIMARY KEY)", timeout=60)
        insert = session.prepare("INSERT INTO killed.rows (id) VALUES (?)")
        for each in ids:
            session.execute(insert, (each,))
        pid = own_node.running()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        own_node.stop()
    finally:
        cluster.shutdown()
    own_node.start()
    own_node.wait_until_ready()
    cluster = Cluster(["127.0.0.1"], port=own_node.native_port, protocol_version=4)
    try:
        rows = cluster.connect().execute("SELECT id FROM killed.rows")
        assert set(ids) - {row.id for row in rows} == set()
    finally:
        cluster.shutdown()


def test_stop_does_not_stop_a_node_that_another_program_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make run` starts a node, the node is killed, and `make node` starts it again in the same directory.

    When `make run` ends, it stops neither the new node nor removes its pid file, so `make stop` finds the node.
    """
    command = [sys.executable, "-c", "import time; time.sleep(60)", f"-Dcassandra.storagedir={tmp_path}"]
    monkeypatch.setattr(node_module, "class_path", lambda version, cache: [])
    monkeypatch.setattr(Node, "_command", lambda self, java, jars, conf: command)
    ports = {"native_port": free_port(), "storage_port": free_port()}
    first, second = Node(directory=tmp_path, **ports), Node(directory=tmp_path, **ports)
    first.start()
    try:
        # The command line of a process is empty until the kernel has set it up.
        pid = wait_for(first.running, description="the first process")
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        second.start()
        restarted = wait_for(second.running, description="the second process")
        assert first.stop() is False
        assert Node(directory=tmp_path).running() == restarted
    finally:
        stopped = second.stop()
    assert stopped is True
    assert second.running() is None
    assert not (tmp_path / "pid").exists()
