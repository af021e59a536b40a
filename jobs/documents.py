"""A job as clients receive it, over HTTP and from the commands."""

from __future__ import annotations

from typing import Any

import orjson

from storage.cql.json_values import rfc3339
from storage.db_io.jobs import Job
from storage.db_io.versioned import now


def document(job: Job) -> dict[str, Any]:
    """The fields of a job that clients see."""
    result = None
    if job.state == "succeeded":
        result = {"read": job.rows_total + job.rows_failed, "written": job.rows_done, "failed": job.rows_failed}
    return {
        "id": str(job.id),
        "kind": job.kind,
        "resource": job.resource,
        "state": job.state,
        "created_at": rfc3339(job.created_at),
        "started_at": None if job.started_at is None else rfc3339(job.started_at),
        "finished_at": None if job.finished_at is None else rfc3339(job.finished_at),
        "attempts": job.attempts,
        "rows_done": job.rows_done,
        "rows_failed": job.rows_failed,
        "bytes_done": job.bytes_done,
        "bytes_total": job.bytes_total,
        "percent": _percent(job),
        "rows_per_second": _rate(job),
        "errors": orjson.loads(job.errors),
        "failure": job.failure,
        "result": result,
    }


def _percent(job: Job) -> float:
    if job.state == "succeeded":
        return 100.0
    # All chunks may be written although the job has not ended yet.
    return round(min(99.9, 100 * job.bytes_done / job.bytes_total), 1) if job.bytes_total else 0.0


def _rate(job: Job) -> float:
    if job.started_at is None:
        return 0.0
    seconds = ((job.finished_at or now()) - job.started_at).total_seconds()
    return round(job.rows_done / seconds, 1) if seconds > 0 else 0.0
