"""One Cassandra session per process.

It is opened on first use, after the fork, in a background thread, and is closed once.
"""

from __future__ import annotations

import atexit
import copy
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cassandra import AuthenticationFailed, ConsistencyLevel, DriverException, UnresolvableContactPoints
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.cluster import Session as Session  # also for the type hints of web/, which does not import the driver
from cassandra.policies import (
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    NoSpeculativeExecutionPolicy,
    TokenAwarePolicy,
)
from cassandra.query import tuple_factory

from environment import get_settings
from observability import metrics
from settings import Settings
from storage.cql import QueryOptions
from storage.cql.consistency import SERIAL_PROFILE
from storage.cql.driver import RowProtocolHandler, begin_with_protocol_v4
from storage.cql.quorum import has_quorum
from storage.errors import StorageUnavailable
from storage.schema.status import pending_migrations

log = logging.getLogger(__name__)

# Seconds.
_MIGRATIONS_TIMEOUT = 2.0


class NotConnected(Exception):
    """No session can be opened. The message gives the reason, for the log or the terminal."""


@contextmanager
def cluster_context(settings: Settings) -> Iterator[Cluster]:
    """A new cluster object. The end of the block shuts the cluster and its sessions down.

    :raises NotConnected: as in :func:`make_cluster`.
    """
    cluster = make_cluster(settings)
    try:
        yield cluster
    finally:
        cluster.shutdown()


@contextmanager
def session_context(
    cluster: Cluster, settings: Settings, keyspace: str | None, wait_for_all_pools: bool = False
) -> Iterator[Session]:
    """A new session of the cluster. The end of the block shuts the session down.

    The cluster stays open.

    :param keyspace: the session's keyspace, which must exist; None for a session without one.
    :param wait_for_all_pools: as in :func:`connect`.
    :raises NotConnected: no node answers, or the keyspace does not exist.
    """
    session = connect(cluster, settings, keyspace, wait_for_all_pools)
    try:
        yield session
    finally:
        session.shutdown()


def open_session(settings: Settings, keyspace: str | None) -> Session:
    """Open a session with its own cluster object; `session.cluster.shutdown()` closes both.

    :param keyspace: the session's keyspace, which must exist; None for a session without one.
    :raises NotConnected: no node answers, or the keyspace does not exist. The cluster is closed then.
    """
    cluster = make_cluster(settings)
    try:
        return connect(cluster, settings, keyspace)
    except BaseException:
        cluster.shutdown()
        raise


def make_cluster(settings: Settings) -> Cluster:
    """A cluster object that is not connected yet. For Astra DB, this asks its metadata service for the nodes.

    :raises NotConnected: no host name can be resolved, the secure-connect bundle is damaged, or the metadata service
        does not answer.
    """
    try:
        cluster = Cluster(**_cluster_arguments(settings))
    except UnresolvableContactPoints as error:
        raise NotConnected(f"no address is known for {', '.join(settings.cassandra_hosts)}") from error
    except Exception as error:
        if not settings.astra:
            raise
        raise NotConnected(_why_no_metadata(error, settings)) from error
    if settings.cassandra_protocol_version is None:
        begin_with_protocol_v4(cluster)
    return cluster


def connect(cluster: Cluster, settings: Settings, keyspace: str | None, wait_for_all_pools: bool = False) -> Session:
    """Open a session of the cluster. The cluster stays open, even after an error.

    :param wait_for_all_pools: wait until the session has tried to connect to every node. Only then does a later change
        of its keyspace reach all connections, which statements without the name of a keyspace need.
    :raises NotConnected: no node answers, or the keyspace does not exist.
    """
    try:
        session = cluster.connect(wait_for_all_pools=wait_for_all_pools)
        session.client_protocol_handler = RowProtocolHandler
        if keyspace is not None:
            # Checked first, because the driver reports a missing keyspace as a node that is down.
            if keyspace not in cluster.metadata.keyspaces:
                first = "add it in the Astra console, then " if settings.astra else ""
                raise NotConnected(f"keyspace {keyspace} does not exist; {first}run: flask --app api db upgrade")
            session.set_keyspace(keyspace)
        return session
    except NoHostAvailable as error:
        centers = {host.datacenter for host in cluster.metadata.all_hosts() if host.datacenter}
        raise NotConnected(_why_no_host(error, settings, centers)) from error
    except DriverException as error:
        raise NotConnected(str(error)) from error


def _why_no_metadata(error: Exception, settings: Settings) -> str:
    # KeyError: the metadata lacks an entry.
    if isinstance(error, (DriverException, KeyError)):
        # The driver gives the cause only as the context of its exception.
        cause = str(error.__context__ or repr(error)).strip("<>")
        return (
            f"the metadata service of Astra DB gives no addresses of nodes ({cause}); check in the Astra console that "
            "the database is active and that the secure-connect bundle is of this database"
        )
    path = settings.astra_db_secure_bundle_path
    return f"the secure-connect bundle {path} is damaged ({error}); download it again from the Astra console"


def _why_no_host(error: NoHostAvailable, settings: Settings, centers: set[str]) -> str:
    if centers and settings.cassandra_local_dc and settings.cassandra_local_dc not in centers:
        found = ", ".join(sorted(centers))
        return f"no node is in CASSANDRA_LOCAL_DC={settings.cassandra_local_dc}; the nodes that answer are in {found}"
    causes = error.errors.items() if isinstance(error.errors, dict) else ()
    reason = "no node answers: "
    if any(isinstance(cause, AuthenticationFailed) for _, cause in causes):
        secret = "ASTRA_DB_APPLICATION_TOKEN" if settings.astra else "CASSANDRA_USERNAME or CASSANDRA_PASSWORD"
        reason = f"{secret} is not accepted: "
    return reason + ("; ".join(f"{host}: {cause}" for host, cause in causes) or str(error))


def _cluster_arguments(settings: Settings) -> dict[str, Any]:
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.cassandra_local_dc or "")),
        consistency_level=ConsistencyLevel.name_to_value[settings.cassandra_consistency_level],
        serial_consistency_level=ConsistencyLevel.name_to_value[settings.cassandra_serial_consistency_level],
        request_timeout=settings.request_timeout,
        # The driver applies it only to statements that are marked idempotent.
        speculative_execution_policy=ConstantSpeculativeExecutionPolicy(settings.cassandra_speculative_delay, 1)
        if settings.cassandra_speculative_delay
        else None,
        row_factory=tuple_factory,
    )
    serial_profile = copy.copy(profile)
    serial_profile.speculative_execution_policy = NoSpeculativeExecutionPolicy()
    arguments: dict[str, Any] = {
        "execution_profiles": {EXEC_PROFILE_DEFAULT: profile, SERIAL_PROFILE: serial_profile},
        "connect_timeout": settings.cassandra_connect_timeout,
        "control_connection_timeout": settings.cassandra_connect_timeout,
        "idle_heartbeat_interval": settings.cassandra_heartbeat_interval,
        "idle_heartbeat_timeout": settings.cassandra_heartbeat_timeout,
        "reconnection_policy": ExponentialReconnectionPolicy(
            settings.cassandra_reconnect_min, settings.cassandra_reconnect_max
        ),
        # Otherwise Session.prepare() waits for all nodes, even for a silent one. If a node does not know a statement
        # when it is executed, the driver prepares the statement there.
        "prepare_on_all_hosts": False,
        "executor_threads": settings.cassandra_executor_threads,
        "application_name": "fieldbook",
        # Without it, a request longer than one segment, such as a batch, waits 40 ms for the server's delayed ACK.
        "sockopts": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    }
    if settings.cassandra_protocol_version is not None:
        arguments["protocol_version"] = settings.cassandra_protocol_version
    if settings.astra_db_secure_bundle_path and settings.astra_db_application_token:
        token = settings.astra_db_application_token.get_secret_value()
        arguments["cloud"] = {
            "secure_connect_bundle": str(settings.astra_db_secure_bundle_path),
            # Otherwise the driver unpacks the bundle beside it, where a mounted secret is read-only.
            "use_default_tempdir": True,
            "connect_timeout": settings.cassandra_connect_timeout,
        }
        arguments["auth_provider"] = PlainTextAuthProvider("token", token)
        return arguments
    arguments["contact_points"] = settings.cassandra_hosts
    arguments["port"] = settings.cassandra_port
    if settings.cassandra_username and settings.cassandra_password:
        arguments["auth_provider"] = PlainTextAuthProvider(
            settings.cassandra_username, settings.cassandra_password.get_secret_value()
        )
    arguments["ssl_context"] = settings.tls_context()
    return arguments


def _warn_of_pending_migrations(session: Session) -> None:
    """Write a warning to the log. It waits a short time only, because requests wait for the session meanwhile."""
    try:
        pending = pending_migrations(session, QueryOptions(timeout=_MIGRATIONS_TIMEOUT))
    except Exception as error:
        log.warning("The migrations of the keyspace could not be read: %s", error)
        return
    if pending:
        log.warning(
            "Keyspace %s has an older schema than this version needs. Run: flask --app api db upgrade. Pending: %s",
            session.keyspace,
            ", ".join(pending),
        )


class _Connector:
    """Holds the session, and the one thread that opens it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._error: Exception | None = None
        self.settings: Settings | None = None
        self.session: Session | None = None

    def get(self, timeout: float | None, settings: Settings | None) -> Session:
        with self._changed:
            self._start(settings)
            self.require(settings)
            self._changed.wait_for(lambda: self.session or self._error or self._stopped, timeout)
            if self.session is not None:
                return self.session
            if self._stopped:
                raise StorageUnavailable("The connection to Cassandra is closed: this process is ending.")
            raise StorageUnavailable("There is no connection to Cassandra yet.") from self._error

    def require(self, settings: Settings | None) -> None:
        """Raise RuntimeError if the session has, or will have, other settings."""
        known = self.settings
        if settings is not None and known is not None and settings is not known and settings != known:
            raise RuntimeError("This process has a session with other settings; pass a session to create_app().")

    def start(self) -> None:
        with self._changed:
            self._start(None)

    def _start(self, settings: Settings | None) -> None:
        if self._thread is None and not self._stopped:
            self.settings = settings or get_settings()
            arguments = (self.settings,)
            self._thread = threading.Thread(target=self._connect, args=arguments, name="cassandra-connect", daemon=True)
            self._thread.start()

    def _connect(self, settings: Settings) -> None:
        """Try to connect until an attempt succeeds. One thread tries, however many requests wait."""
        delays = ExponentialReconnectionPolicy(
            settings.cassandra_reconnect_min, settings.cassandra_reconnect_max, max_attempts=None
        ).new_schedule()
        for delay in delays:
            try:
                session = open_session(settings, settings.cassandra_keyspace)
            except Exception as error:
                log.warning("No connection to Cassandra, next attempt in %.1f s: %s", delay, error)
                with self._changed:
                    # From now on get() raises at once, until an attempt succeeds.
                    self._error = error
                    self._changed.notify_all()
                    if self._changed.wait_for(lambda: self._stopped, delay):
                        return
            else:
                _warn_of_pending_migrations(session)
                with self._changed:
                    if not self._stopped:
                        self.session = session
                        self._changed.notify_all()
                        log.info("Connected to Cassandra, keyspace %s", settings.cassandra_keyspace)
                        return
                session.cluster.shutdown()
                return

    def pools(self) -> list[dict[str, Any]]:
        """The driver's state of each connection pool, one per node."""
        session = self.session
        return list(session.get_pool_state().values()) if session else []

    def hosts(self, *, up: bool) -> int:
        """Number of nodes that the driver sees up, or down."""
        session = self.session
        # `is_up` is None for a node of another data center whose state the driver does not know.
        return sum(1 for host in session.cluster.metadata.all_hosts() if host.is_up is up) if session else 0

    def has_quorum(self) -> bool:
        """Whether there is a session, and its default consistency level can be met."""
        session = self.session
        return session is not None and has_quorum(session)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            session, self.session = self.session, None
            self._changed.notify_all()
        if session is not None:
            session.cluster.shutdown()


_connector = _Connector()
# Connectors that a fork copied. Their sockets belong to the parent, so the child must neither use nor close them. This
# list keeps them from garbage collection, which would close the sockets.
_connectors_of_parent: list[_Connector] = []


def get_session(timeout: float | None = None, settings: Settings | None = None) -> Session:
    """The session of this process. Any thread may call this function, before or after a fork.

    The first call starts to connect and waits. While Cassandra can't be reached, later calls fail at once, and the
    attempts continue in the background.

    :param timeout: seconds to wait for the first attempt; None for no limit.
    :param settings: used by the first call in a process; None to read them from the environment.
    :raises StorageUnavailable: there is no session yet, or :func:`shutdown` has closed it.
    :raises RuntimeError: the process has a session with other settings.
    """
    connector = _connector
    connector.require(settings)
    return connector.session or connector.get(timeout, settings)


def session_if_open() -> Session | None:
    """The session of this process if it is open, without waiting."""
    return _connector.session


def start_connecting() -> None:
    """Start to connect and return at once, so that the first request does not wait."""
    _connector.start()


def shutdown() -> None:
    """Close session and cluster at the end of the process. A later :func:`get_session` raises StorageUnavailable.

    A request that is still running at the end of a worker must not open a new session, which nothing would close.
    """
    _connector.stop()


def reset() -> None:
    """Close session and cluster. A later :func:`get_session` opens new ones. For tests."""
    global _connector
    shutdown()
    _connector = _Connector()


def _after_fork_in_child() -> None:
    global _connector
    _connectors_of_parent.append(_connector)
    _connector = _Connector()


metrics.sampler.add(metrics.DRIVER_CONNECTIONS, lambda: sum(pool["open_count"] for pool in _connector.pools()))
metrics.sampler.add(metrics.DRIVER_IN_FLIGHT, lambda: sum(sum(pool["in_flights"]) for pool in _connector.pools()))
metrics.sampler.add(metrics.NODES_UP, lambda: _connector.hosts(up=True))
metrics.sampler.add(metrics.NODES_DOWN, lambda: _connector.hosts(up=False))
metrics.sampler.add(metrics.WORKERS_WITHOUT_QUORUM, lambda: not _connector.has_quorum())
os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(shutdown)
