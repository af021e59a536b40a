"""Imports and background jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field

from schemas.base import MAX_ERRORS, Path, Query
from schemas.fields import Number, optional

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


def _flag(value: object) -> object:
    if isinstance(value, str):
        if value not in _FLAGS:
            raise ValueError("Input should be 1, 0, true or false")
        return _FLAGS[value]
    return value


Flag = Annotated[bool, BeforeValidator(_flag), Field(json_schema_extra={"type": "string", "enum": list(_FLAGS)})]


class ImportQuery(Query):
    """Query parameters of an import."""

    background: Annotated[Flag, Field(description="Import in the background, however few rows there are.")] = False
    strict: Annotated[Flag, Field(description="Write nothing unless every line is valid.")] = False


class LineError(BaseModel):
    """A value that is not valid, or a line that can't be read."""

    line: int = Field(description="Number of the line in the file, from 1.")
    loc: list[str | int] = Field(description="The field; empty for the whole line.")
    msg: str


class Imported(BaseModel):
    """The result of an import."""

    read: int = Field(description="Rows in the file.")
    written: int
    failed: int = Field(description="Rows that are not valid. They are not written.")
    errors: list[LineError] = Field(max_length=MAX_ERRORS, description="The first errors.")


class JobResult(BaseModel):
    """The result of a job."""

    read: int
    written: int
    failed: int


class JobDocument(BaseModel):
    """A background job."""

    id: UUID
    kind: Literal["import"]
    resource: str
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int = Field(description="How often a worker has begun to work on the job.")
    rows_done: int
    rows_failed: int
    bytes_done: int
    bytes_total: int
    percent: float
    rows_per_second: float
    errors: list[LineError]
    failure: str | None = Field(description="Why the job has failed, or why its last attempt has.")
    result: JobResult | None


class JobPath(Path):
    """Path of one job."""

    id: str = Field(description="UUID of the job.", json_schema_extra={"format": "uuid"})


class JobListQuery(Query):
    """Query parameters of `GET /jobs`."""

    state: JobState = optional(description="Only jobs in this state.")
    limit: Annotated[Number, Field(ge=1, le=100, description="Number of jobs that a page reads.")] = 20
    page_state: str = optional(description="From the `Link` header of the previous response.")
