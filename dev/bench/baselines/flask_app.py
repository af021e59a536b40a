"""Baseline "flask": plain Flask on gunicorn's threaded worker, written as in tutorials.

A pydantic model per row, `jsonify`, named tuples, the driver's default fetch size, and streams that yield row by row.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated, Any
from uuid import UUID, uuid4

from cassandra.cluster import Cluster
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import BatchStatement, BatchType, named_tuple_factory
from flask import Flask, Response, jsonify, request, stream_with_context
from pydantic import BaseModel, EmailStr, Field

from dev.bench.baselines import statements


class NewObserver(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    email: EmailStr
    age: Annotated[int, Field(ge=0, le=150)]


class ObserverChanges(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    email: EmailStr | None = None
    age: Annotated[int, Field(ge=0, le=150)] | None = None


class Observer(BaseModel):
    id: UUID
    name: str
    email: str
    age: int
    created_at: datetime
    updated_at: datetime


class Find(BaseModel):
    genus: str
    species: str
    sightings: int


class Database:
    """The session of the process, connected at the first request, and the prepared statements."""

    def __init__(self) -> None:
        self.session = Cluster(**statements.cluster_arguments(named_tuple_factory)).connect()
        self.select_observer = self.session.prepare(statements.SELECT_OBSERVER)
        self.select_observer_version = self.session.prepare(statements.SELECT_OBSERVER_VERSION)
        self.select_observers = self.session.prepare(statements.SELECT_OBSERVERS)
        self.select_finds = self.session.prepare(statements.SELECT_FINDS)
        self.insert_observer = self.session.prepare(statements.INSERT_OBSERVER)
        self.update_observer = self.session.prepare(statements.UPDATE_OBSERVER)


app = Flask(__name__)
_lock = threading.Lock()
_database: Database | None = None


def db() -> Database:
    global _database
    if _database is None:
        with _lock:
            _database = _database or Database()
    return _database


def as_observer(row: Any) -> Observer:
    return Observer(**{column: getattr(row, column) for column in statements.OBSERVER_COLUMNS})


def new_row(observer: NewObserver) -> tuple[Observer, tuple[Any, ...]]:
    """Return the observer for the response, and the values to store."""
    moment = statements.now()
    created = Observer(id=uuid4(), **observer.model_dump(), created_at=moment, updated_at=moment)
    return created, (*created.model_dump().values(), uuid4())


@app.after_request
def request_id(response: Response) -> Response:
    response.headers["X-Request-ID"] = request.headers.get("X-Request-ID") or str(uuid4())
    return response


@app.get("/health/live")
def live() -> Any:
    return jsonify(status="alive")


@app.get("/observers")
def list_observers() -> Any:
    bound = db().select_observers.bind(())
    bound.fetch_size = int(request.args.get("limit", 10))
    return jsonify([as_observer(row).model_dump(mode="json") for row in db().session.execute(bound).current_rows])


@app.get("/observers/stream")
def stream_observers() -> Any:
    limit = int(request.args.get("limit", 1000))

    def body() -> Iterator[str]:
        yield "["
        for number, row in enumerate(islice(db().session.execute(db().select_observers), limit)):
            yield ("," if number else "") + json.dumps(as_observer(row).model_dump(mode="json"))
        yield "]"

    return Response(stream_with_context(body()), mimetype="application/json")


@app.get("/observers/<uuid:observer_id>")
def get_observer(observer_id: UUID) -> Any:
    row = db().session.execute(db().select_observer, (observer_id,)).one()
    if row is None:
        return jsonify(error="Observer not found"), 404
    return jsonify(as_observer(row).model_dump(mode="json"))


@app.post("/observers")
def post_observer() -> Any:
    created, values = new_row(NewObserver(**request.get_json()))
    db().session.execute(db().insert_observer, values)
    return jsonify(created.model_dump(mode="json")), 201, {"Location": f"/observers/{created.id}"}


@app.patch("/observers/<uuid:observer_id>")
def patch_observer(observer_id: UUID) -> Any:
    changed = ObserverChanges(**request.get_json()).model_dump(exclude_unset=True)
    for _ in range(10):
        row = db().session.execute(db().select_observer_version, (observer_id,)).one()
        if row is None:
            return jsonify(error="Observer not found"), 404
        observer = as_observer(row).model_copy(update={**changed, "updated_at": statements.now()})
        values = (observer.name, observer.email, observer.age, observer.updated_at, uuid4(), observer_id, row.version)
        if db().session.execute(db().update_observer, values).was_applied:
            return jsonify(observer.model_dump(mode="json"))
    return jsonify(error="Too many concurrent changes of this observer"), 409


@app.delete("/observers/<uuid:observer_id>")
def delete_observer(observer_id: UUID) -> Any:
    db().session.execute(f"DELETE FROM {statements.KEYSPACE}.observers WHERE id = %s IF EXISTS", (observer_id,))
    return "", 204


@app.post("/observers/batch")
def post_observers() -> Any:
    created = [new_row(NewObserver(**observer)) for observer in request.get_json()]
    batch = BatchStatement(BatchType.LOGGED)
    for _, values in created:
        batch.add(db().insert_observer, values)
    db().session.execute(batch)
    return jsonify(created=len(created), observers=[observer.model_dump(mode="json") for observer, _ in created]), 201


@app.post("/observers/import")
def import_observers() -> Any:
    """Import NDJSON with one observer per line.

    Validate and insert each; 100 inserts run concurrently.
    """
    rows = (new_row(NewObserver.model_validate_json(line))[1] for line in request.stream if line.strip())
    created = 0
    while window := list(islice(rows, 100)):
        execute_concurrent_with_args(db().session, db().insert_observer, window, concurrency=100)
        created += len(window)
    return jsonify(created=created), 201


@app.get("/find/<genus>")
def list_finds(genus: str) -> Any:
    rows = db().session.execute(db().select_finds, (genus,))
    return jsonify([Find(**row._asdict()).model_dump(mode="json") for row in rows])
