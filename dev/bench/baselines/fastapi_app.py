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


class Created(BaseModel):
    created: int
    observers: list[Observer]


class Imported(BaseModel):
    created: int


OBSERVERS = TypeAdapter(list[Observer])
NEW_OBSERVERS = Annotated[list[NewObserver], Field(min_length=1, max_length=100)]


class Database:
    """The session and the prepared statements."""

    session: Session
    select_observer: PreparedStatement
    select_observer_version: PreparedStatement
    select_observers: PreparedStatement
    select_finds: PreparedStatement
    insert_observer: PreparedStatement
    update_observer: PreparedStatement


db = Database()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    cluster = Cluster(**statements.cluster_arguments(dict_factory))
    db.session = await asyncio.to_thread(cluster.connect)
    for name in (
        "select_observer",
        "select_observer_version",
        "select_observers",
        "select_finds",
        "insert_observer",
        "update_observer",
    ):
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


async def first_page_of_observers(fetch_size: int) -> AsyncResultSet:
    """Return the first page of all observers."""
    bound = db.select_observers.bind(())
    bound.fetch_size = fetch_size
    return await db.session.aexecute(bound)


def new_row(observer: NewObserver) -> dict[str, Any]:
    """Return the row to store. The response omits its version."""
    moment = statements.now()
    return {"id": uuid4(), **observer.model_dump(), "created_at": moment, "updated_at": moment, "version": uuid4()}


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "alive"}


@app.get("/observers", response_model=list[Observer])
async def list_observers(limit: Annotated[int, Query(ge=1, le=100)] = 10) -> Any:
    return (await first_page_of_observers(limit)).current_rows


@app.get("/observers/stream")
async def stream_observers(
    limit: Annotated[int, Query(ge=0)] = 1000, fetch_size: Annotated[int, Query(ge=10, le=5000)] = 1000
) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        remaining = limit
        separator = b"["
        if remaining:
            result = await first_page_of_observers(min(fetch_size, remaining))
            while True:
                page = result.current_rows[:remaining]
                remaining -= len(page)
                if page:
                    yield separator + OBSERVERS.dump_json(OBSERVERS.validate_python(page))[1:-1]
                    separator = b","
                if not remaining or not result.has_more_pages:
                    break
                await result.afetch_next_page()
        yield b"[]" if separator == b"[" else b"]"

    return StreamingResponse(body(), media_type="application/json")


@app.get("/observers/{observer_id}", response_model=Observer)
async def get_observer(observer_id: UUID) -> Any:
    observer = (await execute(db.select_observer, observer_id)).one()
    if observer is None:
        raise HTTPException(404, "Observer not found")
    return observer


@app.post("/observers", response_model=Observer, status_code=201)
async def post_observer(observer: NewObserver, response: Response) -> Any:
    row = new_row(observer)
    await execute(db.insert_observer, *row.values())
    response.headers["Location"] = f"/observers/{row['id']}"
    return row


@app.patch("/observers/{observer_id}", response_model=Observer)
async def patch_observer(observer_id: UUID, changes: ObserverChanges) -> Any:
    """Read the observer, then update it if its version is unchanged.

    Never creates a deleted observer again.
    """
    changed = changes.model_dump(exclude_unset=True)
    for _ in itertools.repeat(None, 10):
        observer = (await execute(db.select_observer_version, observer_id)).one()
        if observer is None:
            raise HTTPException(404, "Observer not found")
        version = observer.pop("version")
        observer |= changed
        observer["updated_at"] = statements.now()
        values = (
            observer["name"],
            observer["email"],
            observer["age"],
            observer["updated_at"],
            uuid4(),
            observer_id,
            version,
        )
        if (await execute(db.update_observer, *values)).was_applied:
            return observer
    raise HTTPException(409, "Too many concurrent changes of this observer")


@app.delete("/observers/{observer_id}", status_code=204)
async def delete_observer(observer_id: UUID) -> None:
    await db.session.aexecute(f"DELETE FROM {statements.KEYSPACE}.observers WHERE id = %s IF EXISTS", (observer_id,))


@app.post("/observers/batch", response_model=Created, status_code=201)
async def post_observers(observers: NEW_OBSERVERS) -> Any:
    rows = [new_row(observer) for observer in observers]
    batch = BatchStatement(BatchType.LOGGED)
    for row in rows:
        batch.add(db.insert_observer, tuple(row.values()))
    await db.session.aexecute(batch)
    return {"created": len(rows), "observers": rows}


@app.post("/observers/import", response_model=Imported, status_code=201)
async def import_observers(request: Request) -> Any:
    """Import NDJSON with one observer per line.

    Validate and insert each; `WINDOW` inserts run concurrently.
    """
    created = 0
    window: list[dict[str, Any]] = []

    async def store() -> None:
        nonlocal created
        await asyncio.gather(*(execute(db.insert_observer, *row.values()) for row in window))
        created += len(window)
        window.clear()

    rest = b""
    async for chunk in request.stream():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            window.append(new_row(NewObserver.model_validate_json(line)))
            if len(window) == WINDOW:
                await store()
    if rest:
        window.append(new_row(NewObserver.model_validate_json(rest)))
    await store()
    return {"created": created}


@app.get("/find/{genus}", response_model=list[Find])
async def list_finds(genus: str) -> Any:
    return await (await execute(db.select_finds, genus)).aall()
