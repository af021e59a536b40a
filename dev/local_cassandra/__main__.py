"""`python -m dev.local_cassandra start [--nodes N]` and `stop`: the development nodes, in the background."""

from __future__ import annotations

import argparse
import os
import sys
import time

from cassandra.cluster import Cluster

from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import STATE, Node, ring, speaks_cql, stop_services
from settings import settings_or_exit


def start(count: int) -> None:
    """Starts the nodes that do not run yet, one after the other, the first as the seed."""
    began = time.monotonic()
    nodes = ring(count, settings_or_exit().cassandra_port)
    if nodes[0].running() is None and speaks_cql(nodes[0].address, nodes[0].native_port):
        sys.exit(f"Another Cassandra answers on {nodes[0].address}:{nodes[0].native_port}. `make stop` ends our own.")
    for node in nodes:
        if node.running() is not None:
            print(f"{node.address}:{node.native_port} runs already.")
            continue
        print(f"Starting Cassandra on {node.address}:{node.native_port} ...", flush=True)
        node.start()
        node.wait_until_ready()
    if count > 1:
        wait_until_acquainted(nodes)
    print(f"Ready after {time.monotonic() - began:.0f} s. `make stop` stops it; its files are in {STATE}.")


def wait_until_acquainted(nodes: list[Node], timeout: float = 60.0) -> None:
    """Returns when each node knows all others; a keyspace that is made earlier gets too few replicas.

    :raises NodeError: when the time (seconds) is up.
    """
    deadline = time.monotonic() + timeout
    for node in nodes:
        cluster = Cluster([node.address], port=node.native_port, protocol_version=5)
        try:
            session = cluster.connect()
            while session.execute("SELECT COUNT(*) FROM system.peers").one()[0] < len(nodes) - 1:
                if time.monotonic() > deadline:
                    raise NodeError(f"{node.address} does not know the other nodes; its log is {node.log}")
                time.sleep(0.2)
        finally:
            cluster.shutdown()


def started_nodes() -> list[Node]:
    """Every node whose pid file is there, last started first, and what an interrupted test run left."""
    files = sorted(STATE.glob("cassandra-*/node*/pid"), reverse=True)
    # A test run's directory has the run's process id: while that lives, its node is not left behind.
    files += [file for file in STATE.glob("tests-*/pid") if not _lives(int(file.parent.name.split("-")[1]))]
    return [Node(directory=file.parent) for file in files]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def stop() -> None:
    """Stops every development node, and before it the service that uses it."""
    services = stop_services()
    if services:
        print("Stopped the service.")
    stopped = sum(node.stop() for node in started_nodes())
    if stopped or not services:
        print(f"Stopped {stopped} Cassandra node{'' if stopped == 1 else 's'}." if stopped else "Nothing runs.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.local_cassandra", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start_parser = commands.add_parser("start", help="start the node, or a ring of them")
    start_parser.add_argument("--nodes", type=int, default=1, choices=range(1, 10), metavar="N")
    commands.add_parser("stop", help="stop what was started")
    arguments = parser.parse_args()
    try:
        if arguments.command == "start":
            start(arguments.nodes)
        else:
            stop()
    except NodeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
