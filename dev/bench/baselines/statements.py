"""The CQL statements and the execution profile that all baselines share."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, ExecutionProfile
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy

KEYSPACE = os.environ.get("CASSANDRA_KEYSPACE", "")
OBSERVER_COLUMNS = ("id", "name", "email", "age", "created_at", "updated_at")

_OBSERVER = ", ".join(OBSERVER_COLUMNS)

# Only changes read the version. No response contains it.
SELECT_OBSERVER = f"SELECT {_OBSERVER} FROM {KEYSPACE}.observers WHERE id = ?"
SELECT_OBSERVER_VERSION = f"SELECT {_OBSERVER}, version FROM {KEYSPACE}.observers WHERE id = ?"
SELECT_OBSERVERS = f"SELECT {_OBSERVER} FROM {KEYSPACE}.observers"
SELECT_FINDS = f"SELECT genus, species, sightings FROM {KEYSPACE}.finds WHERE genus = ?"
# Fieldbook uses the same timestamp: every later transaction has a newer one, even if a node's clock is wrong.
INSERT_OBSERVER = (
    f"INSERT INTO {KEYSPACE}.observers ({_OBSERVER}, version) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP 1"
)
UPDATE_OBSERVER = (
    f"UPDATE {KEYSPACE}.observers SET name = ?, email = ?, age = ?, updated_at = ?, version = ? "
    "WHERE id = ? IF version = ?"
)


def profile(row_factory: Any) -> ExecutionProfile:
    """Fieldbook's consistency levels and load balancing, with the row type of the baseline."""
    return ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
        request_timeout=30.0,
        row_factory=row_factory,
    )


def cluster_arguments(row_factory: Any) -> dict[str, Any]:
    """Arguments of the driver's `Cluster`, from the same environment variables as Fieldbook's."""
    return {
        "contact_points": os.environ["CASSANDRA_HOSTS"].split(","),
        "port": int(os.environ["CASSANDRA_PORT"]),
        # The same values as in Fieldbook, so that the comparison does not measure these settings.
        "protocol_version": 4,
        "sockopts": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        "execution_profiles": {EXEC_PROFILE_DEFAULT: profile(row_factory)},
    }


def now() -> datetime:
    """The current time as Cassandra returns it: in milliseconds, UTC, without a time zone."""
    moment = datetime.now(UTC).replace(tzinfo=None)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
