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


class NewUser(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    email: EmailStr
    age: Annotated[int, Field(ge=0, le=150)]


class UserChanges(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    email: EmailStr | None = None
    age: Annotated[int, Field(ge=0, le=150)] | None = None


class User(BaseModel):
    id: UUID
    name: str
    email: str
    age: int
    created_at: datetime
    updated_at: datetime


class Animal(BaseModel):
    genus: str
    species: str
    image_url: str | None
    size_cm: float | None
    sightings: int
    taxonomy: list[str]


class Database:
    """The session of the process, connected at the first request, and the prepared statements."""

    def __init__(self) -> None:
        self.session = Cluster(**statements.cluster_arguments(named_tuple_factory)).connect()
        self.select_user = self.session.prepare(statements.SELECT_USER)
        self.select_user_version = self.session.prepare(statements.SELECT_USER_VERSION)
        self.select_users = self.session.prepare(statements.SELECT_USERS)
        self.select_animals = self.session.prepare(statements.SELECT_ANIMALS)
        self.insert_user = self.session.prepare(statements.INSERT_USER)
        self.update_user = self.session.prepare(statements.UPDATE_USER)


app = Flask(__name__)
_lock = threading.Lock()
_database: Database | None = None


def db() -> Database:
    global _database
    if _database is None:
        with _lock:
            _database = _database or Database()
    return _database


def as_user(row: Any) -> User:
    return User(**{column: getattr(row, column) for column in statements.USER_COLUMNS})


def new_row(user: NewUser) -> tuple[User, tuple[Any, ...]]:
    """Return the user for the response, and the values to store."""
    moment = statements.now()
    created = User(id=uuid4(), **user.model_dump(), created_at=moment, updated_at=moment)
    return created, (*created.model_dump().values(), uuid4())


@app.after_request
def request_id(response: Response) -> Response:
    response.headers["X-Request-ID"] = request.headers.get("X-Request-ID") or str(uuid4())
    return response


@app.get("/health/live")
def live() -> Any:
    return jsonify(status="alive")


@app.get("/users")
def list_users() -> Any:
    bound = db().select_users.bind(())
    bound.fetch_size = int(request.args.get("limit", 10))
    return jsonify([as_user(row).model_dump(mode="json") for row in db().session.execute(bound).current_rows])


@app.get("/users/stream")
def stream_users() -> Any:
    limit = int(request.args.get("limit", 1000))

    def body() -> Iterator[str]:
        yield "["
        for number, row in enumerate(islice(db().session.execute(db().select_users), limit)):
            yield ("," if number else "") + json.dumps(as_user(row).model_dump(mode="json"))
        yield "]"

    return Response(stream_with_context(body()), mimetype="application/json")


@app.get("/users/<uuid:user_id>")
def get_user(user_id: UUID) -> Any:
    row = db().session.execute(db().select_user, (user_id,)).one()
    if row is None:
        return jsonify(error="User not found"), 404
    return jsonify(as_user(row).model_dump(mode="json"))


@app.post("/users")
def post_user() -> Any:
    created, values = new_row(NewUser(**request.get_json()))
    db().session.execute(db().insert_user, values)
    return jsonify(created.model_dump(mode="json")), 201, {"Location": f"/users/{created.id}"}


@app.patch("/users/<uuid:user_id>")
def patch_user(user_id: UUID) -> Any:
    changed = UserChanges(**request.get_json()).model_dump(exclude_unset=True)
    for _ in range(10):
        row = db().session.execute(db().select_user_version, (user_id,)).one()
        if row is None:
            return jsonify(error="User not found"), 404
        user = as_user(row).model_copy(update={**changed, "updated_at": statements.now()})
        values = (user.name, user.email, user.age, user.updated_at, uuid4(), user_id, row.version)
        if db().session.execute(db().update_user, values).was_applied:
            return jsonify(user.model_dump(mode="json"))
    return jsonify(error="Too many concurrent changes of this user"), 409


@app.delete("/users/<uuid:user_id>")
def delete_user(user_id: UUID) -> Any:
    db().session.execute(f"DELETE FROM {statements.KEYSPACE}.users WHERE id = %s IF EXISTS", (user_id,))
    return "", 204


@app.post("/users/batch")
def post_users() -> Any:
    created = [new_row(NewUser(**user)) for user in request.get_json()]
    batch = BatchStatement(BatchType.LOGGED)
    for _, values in created:
        batch.add(db().insert_user, values)
    db().session.execute(batch)
    return jsonify(created=len(created), users=[user.model_dump(mode="json") for user, _ in created]), 201


@app.post("/users/import")
def import_users() -> Any:
    """Import NDJSON with one user per line.

    Validate and insert each; 100 inserts run concurrently.
    """
    rows = (new_row(NewUser.model_validate_json(line))[1] for line in request.stream if line.strip())
    created = 0
    while window := list(islice(rows, 100)):
        execute_concurrent_with_args(db().session, db().insert_user, window, concurrency=100)
        created += len(window)
    return jsonify(created=created), 201


@app.get("/animal/<genus>")
def list_animals(genus: str) -> Any:
    rows = db().session.execute(db().select_animals, (genus,))
    return jsonify([Animal(**row._asdict()).model_dump(mode="json") for row in rows])
