"""All uses of the driver beyond its documented API. Written for cassandra-driver 3.30.1.

| private API | used for |
|---|---|
| `PreparedStatement.column_metadata`, `.protocol_version`; `serialize` of the types | the values of imported rows |
| `PreparedStatement.result_metadata` | types of the columns that a SELECT returns |
| `typename`, `subtypes`, `fieldnames`, `vector_size` of the type classes in it | those types as a `CqlType` |
| `PrepareMessage` in a new ResponseFuture, `PreparedStatement.from_message`, `Cluster.add_prepared` | :func:`prepare` |
| `ResultMessage.recv_results_rows`, `.recv_results_metadata`, `.column_metadata`, `.parsed_rows` | own decoding |
| `ResultSet.current_rows`, emptied in place | rows are freed although the driver keeps the future |
| `ReplicationStrategy.dc_replication_factors_info`, `.replication_factor_info` | number of replicas of a keyspace |
| `Metadata.token_map`, `TokenMap.rebuild_keyspace`, `.tokens_to_hosts_by_ks` | the replicas of each token range |
| `Metadata.partitioner`, `Murmur3Token.from_key` | the token of a partition key |
| `Cluster.control_connection`, `ControlConnection.wait_for_schema_agreement` | schema agreement without a statement |
| `ConnectionBusy`, `NoConnectionsAvailable`, texts of pool errors | whether a statement was sent to a node |
| an assignment to `Cluster.protocol_version` | the protocol version that the negotiation begins with |

The service refuses to start with another version of the driver. To use one: check each row above, run `make test`, then
add the version to `DRIVER_VERSIONS` in `storage/__init__.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

from cassandra import ProtocolVersion
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ResponseFuture, ResultSet, Session
from cassandra.connection import ConnectionBusy
from cassandra.cqltypes import FrozenType, ReversedType, UserType, VectorType
from cassandra.metadata import Murmur3Token
from cassandra.pool import Host, NoConnectionsAvailable
from cassandra.protocol import PrepareMessage, ProtocolHandler, ResultMessage
from cassandra.query import PreparedStatement

from storage.cql.decoding import Decoder, decode_rows, decoder
from storage.cql.types import CqlType

# Types for which the driver returns the same values as `storage.cql.decoding`, but faster, in C.
_DECODED_BY_DRIVER = frozenset({"ascii", "text", "blob", "tinyint", "smallint", "bigint"})


def prepare(session: Session, cql: str) -> PreparedStatement:
    """Prepare a statement on one node; on a second one too if the first does not answer in time.

    Like `Session.prepare`, but with the speculative execution policy and the timeout of the default profile.
    `Session.prepare` waits for a silent node until its timeout.

    :raises Exception: any exception of the driver.
    """
    profile = session.get_execution_profile(EXEC_PROFILE_DEFAULT)
    plan = profile.speculative_execution_policy.new_plan(session.keyspace, None)
    message = PrepareMessage(query=cql)
    future = ResponseFuture(session, message, None, profile.request_timeout, speculative_execution_plan=plan)
    future.send_request()
    response = future.result().one()
    cluster = session.cluster
    prepared = PreparedStatement.from_message(
        response.query_id,
        response.bind_metadata,
        response.pk_indexes,
        cluster.metadata,
        cql,
        None,
        cluster.protocol_version,
        response.column_metadata,
        response.result_metadata_id,
        cluster.column_encryption_policy,
    )
    # The driver finds it here to prepare it on a node that does not know it.
    cluster.add_prepared(response.query_id, prepared)
    return prepared


def value_encoders(prepared: PreparedStatement) -> list[Callable[[Any], bytes | None]]:
    """For each value of a statement, the function that encodes it for the native protocol."""
    version = prepared.protocol_version

    def encoder(driver_type: Any) -> Callable[[Any], bytes | None]:
        serialize = driver_type.serialize
        return lambda value: None if value is None else serialize(value, version)

    return [encoder(column.type) for column in prepared.column_metadata]


def result_types(prepared: PreparedStatement) -> tuple[CqlType, ...]:
    """Types of the columns that a prepared SELECT returns."""
    return _cql_types(tuple(column[3] for column in prepared.result_metadata))


@lru_cache(maxsize=1000)
def _cql_types(driver_types: tuple[Any, ...]) -> tuple[CqlType, ...]:
    return tuple(map(_cql_type, driver_types))


def _cql_type(driver_type: Any) -> CqlType:
    """The type that a class of `cassandra.cqltypes` stands for."""
    if issubclass(driver_type, VectorType):
        return CqlType("vector", (_cql_type(driver_type.subtype),), driver_type.vector_size)
    arguments = tuple(map(_cql_type, driver_type.subtypes))
    if issubclass(driver_type, (FrozenType, ReversedType)):
        return arguments[0]
    if issubclass(driver_type, UserType):
        return CqlType("udt", arguments, field_names=tuple(driver_type.fieldnames))
    return CqlType("text" if driver_type.typename == "varchar" else driver_type.typename, arguments)


class _Rows(ProtocolHandler.message_types_by_opcode[ResultMessage.opcode]):
    """A result whose rows `storage.cql.decoding` decodes.

    The driver decodes rows of types for which it returns the same values.
    """

    def recv_results_rows(
        self, f: BytesIO, protocol_version: int, user_type_map: Any, result_metadata: Any, encryption_policy: Any
    ) -> None:
        start = f.tell()
        self.recv_results_metadata(f, user_type_map)
        metadata = self.column_metadata or result_metadata
        decoders = _decoders(tuple(column[3] for column in metadata))
        if decoders is None:
            f.seek(start)
            super().recv_results_rows(f, protocol_version, user_type_map, result_metadata, encryption_policy)
            return
        self.column_names = [column[2] for column in metadata]
        self.column_types = [column[3] for column in metadata]
        self.parsed_rows = _EncodedRows(f.read(), decoders)


class _EncodedRows(Sequence[tuple[Any, ...]]):
    """Rows that are decoded when they are first used: in the thread of the request, not in the driver's event loop.

    There, decoding would delay the responses to all other requests of the process, and an exception would close the
    connection.
    """

    def __init__(self, data: bytes, decoders: tuple[Decoder, ...]) -> None:
        self._data, self._decoders = data, decoders
        self._rows: list[tuple[Any, ...]] | None = None

    def _decoded(self) -> list[tuple[Any, ...]]:
        if self._rows is None:
            self._rows, self._data = decode_rows(self._data, self._decoders), b""
        return self._rows

    def __len__(self) -> int:
        return len(self._decoded())

    def __getitem__(self, index: Any) -> Any:
        return self._decoded()[index]

    def clear(self) -> None:
        """Free the rows."""
        self._rows, self._data = [], b""


class RowProtocolHandler(ProtocolHandler):
    """The driver's protocol, with rows that have the Python values that docs/types.md lists."""

    message_types_by_opcode = ProtocolHandler.message_types_by_opcode | {ResultMessage.opcode: _Rows}


@lru_cache(maxsize=1000)
def _decoders(driver_types: tuple[Any, ...]) -> tuple[Decoder, ...] | None:
    """The decoders of a row's columns; None if the driver can decode all of their types."""
    types = _cql_types(driver_types)
    if all(each.name in _DECODED_BY_DRIVER for each in types):
        return None
    return tuple(map(decoder, types))


def take_rows(result: ResultSet) -> list[Any]:
    """Take the rows of the current page out of the result.

    The driver keeps each future, with its rows, for about a second, until it removes the timer of the future's timeout.
    Without this function, a fast stream would keep all pages of that second in memory.
    """
    rows = list(result.current_rows)
    result.current_rows.clear()
    return rows


def replication_factors(session: Session, keyspace: str | None) -> dict[str | None, int]:
    """Number of replicas in each data center; empty if it is not known.

    SimpleStrategy has one number for all data centers together, under the key None.
    """
    strategy = getattr(session.cluster.metadata.keyspaces.get(keyspace), "replication_strategy", None)
    factors = getattr(strategy, "dc_replication_factors_info", None)
    if factors:
        return {center: factor.all_replicas for center, factor in factors.items()}
    factor = getattr(strategy, "replication_factor_info", None)
    return {None: factor.all_replicas} if factor else {}


# The map of the last call of replica_sets(), and its result. One assignment replaces both, so no lock is needed.
_last_replicas: tuple[Mapping[Any, Sequence[Host]], frozenset[frozenset[Host]]] = ({}, frozenset())


def replica_sets(session: Session, keyspace: str | None) -> frozenset[frozenset[Host]]:
    """The different sets of nodes that hold a token range of a keyspace; empty if the driver does not know them.

    Returns the same object until nodes join, leave or move, or the replication of a keyspace changes: the driver never
    changes its map, but replaces it.
    """
    global _last_replicas
    token_map = session.cluster.metadata.token_map
    if token_map is None:
        return frozenset()
    # Only the first call computes the map. The driver's load balancing needs it too.
    token_map.rebuild_keyspace(keyspace, build_if_absent=True)
    replica_map = token_map.tokens_to_hosts_by_ks.get(keyspace) or {}
    known, sets = _last_replicas
    if replica_map is not known:
        sets = frozenset(map(frozenset, replica_map.values()))
        _last_replicas = replica_map, sets
    return sets


def uses_murmur3(session: Session) -> bool:
    """Whether tokens are those of Murmur3Partitioner, Cassandra's default."""
    return str(session.cluster.metadata.partitioner).endswith("Murmur3Partitioner")


def murmur3_token(partition_key: bytes) -> int:
    """The token of a serialized partition key."""
    return int(Murmur3Token.from_key(partition_key).value)


def nodes_agree_on_schema(session: Session, timeout: float) -> bool:
    """Wait until all nodes that are up have the same schema version, as one of them sees it.

    :param timeout: seconds.
    :returns: whether they agree.
    """
    return bool(session.cluster.control_connection.wait_for_schema_agreement(wait_time=timeout))


def was_not_sent(error: object) -> bool:
    """Whether the driver raised this error before it sent the statement to the node."""
    # The driver raises plain exceptions for a pool that is missing or closed.
    return isinstance(error, (NoConnectionsAvailable, ConnectionBusy)) or bool(
        re.search("marked down or removed|is shutdown", str(error))
    )


def begin_with_protocol_v4(cluster: Cluster) -> None:
    """Begin the negotiation of the protocol version with version 4.

    Every supported server has version 4. By default the driver begins with a version of DataStax Enterprise. In
    version 5 it computes a checksum of each frame in Python, which costs a tenth of a read by id. A version that is
    passed to the constructor would be fixed, without negotiation.
    """
    cluster.protocol_version = ProtocolVersion.V4
