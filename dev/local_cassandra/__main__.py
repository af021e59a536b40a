"""Start and stop development nodes in the background: `python -m dev.local_cassandra start [--nodes N]` and `stop`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import STATE, Node, ring, speaks_cql, stop_services
from dev.local_cassandra.ring import wait_until_nodes_see_each_other
from environment import default_to_development, settings_or_exit


def start(count: int) -> None:
    """Start the nodes that are not running, one after the other. The first node is the seed.

    :param count: number of nodes.
    :raises NodeError: when a node does not start.
    """
    began = time.monotonic()
    default_to_development()
    nodes = ring(count, settings_or_exit().cassandra_port)
    if nodes[0].running() is None and speaks_cql(nodes[0].address, nodes[0].native_port):
        sys.exit(
            f"Another Cassandra already runs on {nodes[0].address}:{nodes[0].native_port}. "
            "If `make node` or `make run` started it, stop it with `make stop`."
        )
    for node in nodes:
        if node.running() is not None:
            print(f"{node.address}:{node.native_port} is already running.")
            continue
        print(f"Starting Cassandra on {node.address}:{node.native_port} ...", flush=True)
        node.start()
        node.wait_until_ready()
    if count > 1:
        wait_until_nodes_see_each_other(nodes)
    print(f"Ready after {time.monotonic() - began:.0f} s. Stop with `make stop`. Data and logs are in {STATE}.")


def started_nodes() -> list[Node]:
    """Return the nodes that have a pid file, the last one first.

    This includes nodes that a killed test run left running.
    """
    files = sorted(STATE.glob("cassandra-*/node*/pid"), reverse=True)
    # The directory of a test run is named after the process id of pytest. While pytest runs, its node is in use.
    files += [file for file in STATE.glob("tests-*/pid") if not _is_alive(int(file.parent.name.split("-")[1]))]
    return [Node(directory=file.parent) for file in files]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def stop() -> None:
    """Stop the services that `make run` started, then every development node."""
    services = stop_services()
    if services:
        print("Stopped the service.")
    stopped = sum(node.stop() for node in started_nodes())
    if stopped or not services:
        print(f"Stopped {stopped} Cassandra node{'' if stopped == 1 else 's'}." if stopped else "Nothing is running.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.local_cassandra", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start_parser = commands.add_parser("start", help="start one node, or a cluster")
    start_parser.add_argument("--nodes", type=int, default=1, choices=range(1, 10), metavar="N")
    commands.add_parser("stop", help="stop the services and the nodes")
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
