"""Baseline "fastapi": an async FastAPI service on uvicorn.

It is written as the FastAPI documentation recommends, and awaits the driver through cassandra-asyncio-driver.

We also tried aiocassandra (2018). A single query costs about the same with both: each was cheaper in some rounds. But
the paging of aiocassandra fails on current Python versions (`asyncio.Event(loop=...)`), and its queries return rows
without a paging state, so it cannot stream.

A stream converts a whole page at once to models and JSON, in pydantic's compiled code; row by row would cost more.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType, PreparedStatement, dict_factory
from cassandra_asyncio.cluster import AsyncResultSet, Cluster
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, EmailStr, Field, TypeAdapter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dev.bench.baselines import statements

WINDOW = 100


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


class Created(BaseModel):
    created: int
    users: list[User]


class Imported(BaseModel):
    created: int


USERS = TypeAdapter(list[User])
NEW_USERS = Annotated[list[NewUser], Field(min_length=1, max_length=100)]


class Database:
    """The session and the prepared statements."""

    session: Session
    select_user: PreparedStatement
    select_user_version: PreparedStatement
    select_users: PreparedStatement
    select_animals: PreparedStatement
    insert_user: PreparedStatement
    update_user: PreparedStatement


db = Database()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    cluster = Cluster(**statements.cluster_arguments(dict_factory))
    db.session = await asyncio.to_thread(cluster.connect)
    for name in ("select_user", "select_user_version", "select_users", "select_animals", "insert_user", "update_user"):
        setattr(db, name, await asyncio.to_thread(db.session.prepare, getattr(statements, name.upper())))
    yield
    await asyncio.to_thread(cluster.shutdown)


class RequestId:
    """Set X-Request-ID on every response.

    A plain ASGI middleware costs less than Starlette's base class.
    """

    _valid = re.compile(r"[A-Za-z0-9._-]{1,128}")

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if self._valid.fullmatch(given) else str(uuid4())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


app = FastAPI(lifespan=lifespan)
app.add_middleware(RequestId)


async def execute(statement: PreparedStatement, *values: Any) -> AsyncResultSet:
    return await db.session.aexecute(statement, values)


async def first_page_of_users(fetch_size: int) -> AsyncResultSet:
    """Return the first page of all users."""
    bound = db.select_users.bind(())
    bound.fetch_size = fetch_size
    return await db.session.aexecute(bound)


def new_row(user: NewUser) -> dict[str, Any]:
    """Return the row to store. The response omits its version."""
    moment = statements.now()
    return {"id": uuid4(), **user.model_dump(), "created_at": moment, "updated_at": moment, "version": uuid4()}


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "alive"}


@app.get("/users", response_model=list[User])
async def list_users(limit: Annotated[int, Query(ge=1, le=100)] = 10) -> Any:
    return (await first_page_of_users(limit)).current_rows


@app.get("/users/stream")
async def stream_users(
    limit: Annotated[int, Query(ge=0)] = 1000, fetch_size: Annotated[int, Query(ge=10, le=5000)] = 1000
) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        remaining = limit
        separator = b"["
        if remaining:
            result = await first_page_of_users(min(fetch_size, remaining))
            while True:
                page = result.current_rows[:remaining]
                remaining -= len(page)
                if page:
                    yield separator + USERS.dump_json(USERS.validate_python(page))[1:-1]
                    separator = b","
                if not remaining or not result.has_more_pages:
                    break
                await result.afetch_next_page()
        yield b"[]" if separator == b"[" else b"]"

    return StreamingResponse(body(), media_type="application/json")


@app.get("/users/{user_id}", response_model=User)
async def get_user(user_id: UUID) -> Any:
    user = (await execute(db.select_user, user_id)).one()
    if user is None:
        raise HTTPException(404, "User not found")
    return user


@app.post("/users", response_model=User, status_code=201)
async def post_user(user: NewUser, response: Response) -> Any:
    row = new_row(user)
    await execute(db.insert_user, *row.values())
    response.headers["Location"] = f"/users/{row['id']}"
    return row


@app.patch("/users/{user_id}", response_model=User)
async def patch_user(user_id: UUID, changes: UserChanges) -> Any:
    """Read the user, then update it if its version is unchanged.

    Never creates a deleted user again.
    """
    changed = changes.model_dump(exclude_unset=True)
    for _ in itertools.repeat(None, 10):
        user = (await execute(db.select_user_version, user_id)).one()
        if user is None:
            raise HTTPException(404, "User not found")
        version = user.pop("version")
        user |= changed
        user["updated_at"] = statements.now()
        values = (user["name"], user["email"], user["age"], user["updated_at"], uuid4(), user_id, version)
        if (await execute(db.update_user, *values)).was_applied:
            return user
    raise HTTPException(409, "Too many concurrent changes of this user")


@app.delete("/users/{user_id}", status_code=204)
async def delete_user(user_id: UUID) -> None:
    await db.session.aexecute(f"DELETE FROM {statements.KEYSPACE}.users WHERE id = %s IF EXISTS", (user_id,))


@app.post("/users/batch", response_model=Created, status_code=201)
async def post_users(users: NEW_USERS) -> Any:
    rows = [new_row(user) for user in users]
    batch = BatchStatement(BatchType.LOGGED)
    for row in rows:
        batch.add(db.insert_user, tuple(row.values()))
    await db.session.aexecute(batch)
    return {"created": len(rows), "users": rows}


@app.post("/users/import", response_model=Imported, status_code=201)
async def import_users(request: Request) -> Any:
    """Import NDJSON with one user per line.

    Validate and insert each; `WINDOW` inserts run concurrently.
    """
    created = 0
    window: list[dict[str, Any]] = []

    async def store() -> None:
        nonlocal created
        await asyncio.gather(*(execute(db.insert_user, *row.values()) for row in window))
        created += len(window)
        window.clear()

    rest = b""
    async for chunk in request.stream():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            window.append(new_row(NewUser.model_validate_json(line)))
            if len(window) == WINDOW:
                await store()
    if rest:
        window.append(new_row(NewUser.model_validate_json(rest)))
    await store()
    return {"created": created}


@app.get("/animal/{genus}", response_model=list[Animal])
async def list_animals(genus: str) -> Any:
    return await (await execute(db.select_animals, genus)).aall()
