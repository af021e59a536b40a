"""Observers: documents that clients send to create and change them, and that clients receive."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from schemas.base import Body, Path, Query
from schemas.fields import Email, Name, Number, optional

Age = Annotated[int, Field(ge=0, le=150)]
FetchSize = Annotated[Number, Field(ge=10, le=5000)]


class NewObserver(Body):
    """An observer to create, or all fields of an observer to replace."""

    name: Name
    email: Email
    age: Age


class ObserverChanges(Body):
    """Fields of an observer to change: at least one."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Name = optional()
    email: Email = optional()
    age: Age = optional()

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("Give at least one of name, email and age")
        return self


class ObserverBatch(RootModel[Annotated[list[NewObserver], Field(min_length=1, max_length=100)]], Body):
    """1 to 100 observers."""

    # pydantic does not allow `extra` in a RootModel; NewObserver forbids unknown fields.
    model_config = ConfigDict(extra=None)


class Observer(BaseModel):
    """An observer as the client receives it. Its version is the `ETag` header."""

    id: UUID
    name: str
    email: str
    age: int
    created_at: datetime
    updated_at: datetime


class ObserversCreated(BaseModel):
    """The response to a batch."""

    created: int
    observers: list[Observer]


class ObserversPage(BaseModel):
    """One page of observers."""

    observers: list[Observer]
    has_more: bool
    page_state: str | None


class ObserverPath(Path):
    """Path of one observer."""

    id: str = Field(description="UUID of the observer.", json_schema_extra={"format": "uuid"})


class ObserverListQuery(Query):
    """Query parameters of `GET /observers`."""

    limit: Annotated[Number, Field(ge=1, le=100, description="Number of observers in this response.")] = 10
    page_state: str = optional(description="From the `Link` header of the previous response.")


class ObserverStreamQuery(Query):
    """Query parameters of `GET /observers/stream`."""

    limit: Annotated[Number, Field(ge=0, description="Total number of observers; there is no upper limit.")] = 1000
    fetch_size: Annotated[FetchSize, Field(description="Number of rows in each page from Cassandra.")] = 1000


class ObserverPageQuery(Query):
    """Query parameters of `GET /observers/stream/pages`."""

    limit: Annotated[Number, Field(ge=0)] = optional(
        description="Total number of observers over all pages; by default all. Requests with page_state may leave it "
        "out."
    )
    fetch_size: Annotated[FetchSize, Field(description="Number of observers in this response.")] = 100
    page_state: str = optional(description="From the previous response.")
