"""Queries and responses of the probes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from schemas.base import Query
from schemas.fields import Number


class PerformanceQuery(Query):
    requests: Annotated[Number, Field(ge=1, le=1000, description="Number of queries.")] = 100


class Performance(BaseModel):
    """Times are in seconds."""

    requests: int
    total_time: float
    avg_time_per_request: float
    requests_per_second: float
    errors: int = Field(description="Queries that failed; they count as requests.")


class LongQuery(BaseModel):
    message: str
    seconds: float
    queries: int


class SessionFindings(BaseModel):
    session_unchanged: bool = Field(description="Requests of this worker still get the same session.")
    session_open: bool


class QueryErrorFindings(SessionFindings):
    error_caught: str | None = Field(description="Cassandra's error; null if the query succeeded.")
    session_still_works: bool
    cassandra_version: str | None = Field(description="Read by the session after the error.")


class StreamingErrorFindings(SessionFindings):
    streaming_error_caught: bool
    error_message: str | None
    stream_completed: bool
    session_still_streams: bool = Field(description="The session streamed every row afterwards.")
    rows_after_error: int


class StreamedUser(BaseModel):
    name: str
    age: int


class AgeStream(BaseModel):
    age: int
    count: int
    users: list[StreamedUser]


class ConcurrentStreamsFindings(BaseModel):
    streams_completed: int
    all_streams_independent: bool = Field(description="Each stream returned all of its own rows and no others.")
    results: list[AgeStream]
    session_still_open: bool


class NestedContextsFindings(BaseModel):
    events: list[str] = Field(description="Each context that was opened or closed, in order.")
    correct_order: bool = Field(description="Each context closed what it opened, and nothing else.")
    row_count: int
    main_session_unaffected: bool


class CancellationFindings(BaseModel):
    rows_processed_before_cancel: int
    was_cancelled: bool = Field(description="The stream was closed and returned no more rows.")
    session_still_works: bool
    total_rows: int = Field(description="Rows of a new stream of the same partition.")
    new_stream_worked: bool
    session_open: bool
    error_type: str | None = Field(description="The exception in the stream: `GeneratorExit` if it was closed.")


class ConnectionStatus(BaseModel):
    session_open: bool
    session_id: str | None
    cluster_open: bool
    cluster_id: str | None
    keyspace: str | None
