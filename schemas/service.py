"""Responses of the service's own routes: home page, health, metrics, shutdown."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.base import Path


class FilePath(Path):
    """Path of a file of the documentation page."""

    filename: str


class Home(BaseModel):
    """Links to everything that the service offers."""

    message: str
    version: str
    docs: str
    openapi: str
    health: str
    metrics: str
    resources: dict[str, str]


class Nodes(BaseModel):
    """Number of Cassandra nodes that the driver sees up and down."""

    up: int
    down: int


class Health(BaseModel):
    """Readiness of this instance."""

    status: str
    cassandra: str
    keyspace: str
    nodes: Nodes
    quorum: bool = Field(description="Whether the default consistency level can be met for every row.")
    read_only: bool = Field(description="Whether the instance rejects writes (`READ_ONLY`).")
    pending_migrations: list[str] | None = Field(
        description="Migrations of this version that the keyspace does not have; null if Cassandra can't be queried."
    )
    timestamp: datetime


class Live(BaseModel):
    """Liveness of this process."""

    status: str


class Message(BaseModel):
    """A sentence that describes what the service does next."""

    message: str


class Latency(BaseModel):
    """Percentiles in milliseconds, estimated from a histogram; null without observations."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


class Metrics(BaseModel):
    """A summary of the metrics of all workers of this instance."""

    total_queries: int = Field(description="Queries with a response or an error; each page of a stream counts.")
    active_connections: int = Field(description="Open connections to nodes.")
    queries_per_second: float = Field(description="Over the last 60 seconds.")
    average_query_time_ms: float
    errors_count: int = Field(description="Exceptions raised by the Cassandra driver.")
    total_requests: int = Field(description="Responses to clients.")
    requests_in_flight: int = Field(description="Requests that count against the concurrency limit.")
    request_latency_ms: Latency
    query_latency_ms: Latency
    workers: int = Field(description="Live worker processes.")
