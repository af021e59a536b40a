"""Write storage/schema.json: the schema that the migrations create. This is `make schema`.

It applies the migrations to scratch keyspaces of a development node, and drops the keyspaces. It uses the Cassandra
that TEST_CASSANDRA_HOSTS and TEST_CASSANDRA_PORT name, or the node of `make node` and `make run`. If none runs, it
starts one for this purpose. It never uses the cluster that CASSANDRA_HOSTS names.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cassandra.cluster import Cluster, Session

from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import STATE, scratch_node, speaks_cql
from environment import default_to_development, settings_or_exit
from storage.schema import SchemaError, history
from storage.schema.description import (
    REFUSALS,
    SCHEMA_FILE,
    Description,
    compare,
    describe,
    items,
    read,
)
from storage.schema.files import MIGRATIONS, read_migrations
from storage.schema.transactions import reason

# The version of Cassandra that the file describes.
VERSION = "5.0"
STALE = "storage/schema.json is stale: run `make schema`."

# Seconds.
_DDL_TIMEOUT = 60.0


def generate(cluster: Cluster, migrations: Path = MIGRATIONS, say: Callable[[str], None] = print) -> Description:
    """The content of storage/schema.json: what the migrations create on this cluster.

    `optional` lists the items that only the statements marked `-- skip where refused` create.

    :param say: called with a line about each of these statements that this cluster refuses.
    :raises SchemaError: Cassandra refuses another statement, or an optional statement changes what others create.
    """
    with _scratch_keyspace(cluster) as session:
        _apply(session, migrations, True, say)
        everything = required = describe(session, session.keyspace)
    if any(optional for _, _, optional in _statements(migrations)):
        with _scratch_keyspace(cluster) as session:
            _apply(session, migrations, False, say)
            required = describe(session, session.keyspace)
    return everything | {"optional": _optional(everything, required)}


def stale(generated: Description, written: Description, is_exact: bool) -> list[str]:
    """Describe why a schema file is stale; empty if it is current.

    :param generated: by `generate`.
    :param written: the content of the file.
    :param is_exact: whether the server has the version that the file describes. On another server, optional items may
        be missing.
    """
    differences, notes = compare(written, generated)
    if not is_exact:
        return differences
    if not (differences or notes) and generated["optional"] != written.get("optional"):
        differences.append(f"optional is {written.get('optional')} in the file, not {generated['optional']}")
    return differences + notes


def as_text(description: Description) -> str:
    """The text of a schema file: the same for the same schema."""
    return json.dumps(description, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def release_version(cluster: Cluster) -> str:
    """The version of the node that answers."""
    with cluster.connect() as session:
        return str(next(iter(session.execute("SELECT release_version FROM system.local")))[0])


@contextmanager
def _scratch_keyspace(cluster: Cluster) -> Iterator[Session]:
    """A session of a new keyspace, which is dropped at the end of the block."""
    name = f"fieldbook_schema_{uuid.uuid4().hex[:12]}"
    with cluster.connect() as session:
        replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}"
        session.execute(f"CREATE KEYSPACE {name} WITH replication = {replication}", timeout=_DDL_TIMEOUT)
        try:
            session.set_keyspace(name)
            session.execute(f"CREATE TABLE {history.TABLE} (name text PRIMARY KEY)", timeout=_DDL_TIMEOUT)
            yield session
        finally:
            session.execute(f"DROP KEYSPACE {name}", timeout=_DDL_TIMEOUT)


def _apply(session: Session, migrations: Path, with_optional: bool, say: Callable[[str], None]) -> None:
    for place, cql, optional in _statements(migrations):
        if optional and not with_optional:
            continue
        try:
            session.execute(cql, timeout=_DDL_TIMEOUT)
        except REFUSALS as error:
            if not optional:
                without = "" if with_optional else ", without the statements marked `skip where refused`"
                raise SchemaError(
                    f"{place}: Cassandra refuses this statement{without}:\n{cql}\n{reason(error)}"
                ) from error
            say(f"{place}: this server refuses an optional statement: {reason(error)}")


def _statements(migrations: Path) -> Iterator[tuple[str, str, bool]]:
    """File with line, and CQL, of each statement of the migrations, and whether it is optional."""
    for migration in read_migrations(migrations):
        for statement in migration.statements:
            yield f"{migration.name}:{statement.line}", statement.cql, statement.optional


def _optional(everything: Description, required: Description) -> list[str]:
    """The items that only the optional statements create.

    :raises SchemaError: these statements change or drop something, which `optional` can't express.
    """
    found: list[str] = []
    with_all, without = items(everything), items(required)
    for thing in sorted(with_all.keys() | without.keys()):
        if thing not in without:
            found.append(thing)
            continue
        for item, value in sorted(without[thing].items()):
            if with_all.get(thing, {}).get(item) != value:
                raise SchemaError(
                    f"{thing}: {item} is {value} only where the statements marked `skip where refused` are refused. "
                    "These statements may add to the schema, but must not change or drop a part of it."
                )
        found += [f"{thing}: {item}" for item in sorted(with_all[thing].keys() - without[thing].keys())]
    return found


@contextmanager
def _development_cluster() -> Iterator[Cluster]:
    """A cluster object of the Cassandra that this command uses.

    :raises NodeError: no node runs, and none can be started.
    """
    if hosts := os.environ.get("TEST_CASSANDRA_HOSTS"):
        with _cluster(hosts.split(","), int(os.environ.get("TEST_CASSANDRA_PORT") or 9042)) as cluster:
            yield cluster
        return
    default_to_development()
    port = settings_or_exit().cassandra_port
    if speaks_cql("127.0.0.1", port):
        with _cluster(["127.0.0.1"], port) as cluster:
            yield cluster
        return
    # After an interrupted run, `make stop` finds nodes in directories with this name.
    directory = STATE / f"tests-{os.getpid()}"
    node = scratch_node(directory)
    print("Starting Cassandra, because no development node runs ...", flush=True)
    try:
        node.start()
        node.wait_until_ready()
        with _cluster([node.address], node.native_port) as cluster:
            yield cluster
    finally:
        node.stop()
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _cluster(hosts: list[str], port: int) -> Iterator[Cluster]:
    # All supported servers have version 4 of the protocol.
    with Cluster(hosts, port=port, protocol_version=4) as cluster:
        yield cluster


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.schema", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if the file is stale")
    arguments = parser.parse_args()
    try:
        with _development_cluster() as cluster:
            version = release_version(cluster)
            is_exact = version.startswith(VERSION)
            if arguments.check:
                if found := stale(generate(cluster), read(), is_exact):
                    sys.exit("\n".join([STALE, *found]))
                print("storage/schema.json is what the migrations create.")
            elif is_exact:
                SCHEMA_FILE.write_text(as_text(generate(cluster)), encoding="utf-8")
                print("Wrote storage/schema.json.")
            else:
                sys.exit(f"storage/schema.json describes Cassandra {VERSION}, but this node has version {version}.")
    except (NodeError, SchemaError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
