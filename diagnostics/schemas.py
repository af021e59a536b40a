"""What the diagnostics take and give."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from schemas.models import Number, Query


class PerformanceQuery(Query):
    requests: Annotated[Number, Field(ge=1, le=1000, description="Queries in all.")] = 100


class Performance(BaseModel):
    """Times are in seconds."""

    requests: int
    total_time: float
    avg_time_per_request: float
    requests_per_second: float
    errors: int = Field(description="Queries that failed; they count as requests too.")


class LongQuery(BaseModel):
    message: str
    seconds: float
    queries: int


class SessionFindings(BaseModel):
    session_unchanged: bool = Field(description="The requests of this worker still get the same session.")
    session_open: bool


class QueryErrorFindings(SessionFindings):
    error_caught: str | None = Field(description="What Cassandra said; null where it answered.")
    session_still_works: bool
    cassandra_version: str | None = Field(description="As the session has read it after the error.")


class StreamingErrorFindings(SessionFindings):
    streaming_error_caught: bool
    error_message: str | None
    stream_completed: bool
    session_still_streams: bool = Field(description="It gave every row afterwards.")
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
    all_streams_independent: bool = Field(description="Each gave its own rows, all of them and no others.")
    results: list[AgeStream]
    session_still_open: bool


class NestedContextsFindings(BaseModel):
    events: list[str] = Field(description="What was seen to open and to close, in order.")
    correct_order: bool = Field(description="Each context closed what it had opened, and nothing else.")
    row_count: int
    main_session_unaffected: bool


class CancellationFindings(BaseModel):
    rows_processed_before_cancel: int
    was_cancelled: bool = Field(description="The stream saw its end, and gave nothing more.")
    session_still_works: bool
    total_rows: int = Field(description="Of a new stream of the same rows.")
    new_stream_worked: bool
    session_open: bool
    error_type: str | None = Field(description="What the stream saw: `GeneratorExit` when it was closed.")


class ConnectionStatus(BaseModel):
    session_open: bool
    session_id: str | None
    cluster_open: bool
    cluster_id: str | None
    keyspace: str | None
