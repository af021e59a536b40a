"""Users: documents that clients send to create and change them, and that clients receive."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from schemas.base import Body, Path, Query
from schemas.fields import Email, Name, Number, optional

Age = Annotated[int, Field(ge=0, le=150)]
MinimumAge = Annotated[Number, Field(ge=0, le=150)]
FetchSize = Annotated[Number, Field(ge=10, le=5000)]


class NewUser(Body):
    """A user to create, or all fields of a user to replace."""

    name: Name
    email: Email
    age: Age


class UserChanges(Body):
    """Fields of a user to change: at least one."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Name = optional()
    email: Email = optional()
    age: Age = optional()

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("Give at least one of name, email and age")
        return self


class UserBatch(RootModel[Annotated[list[NewUser], Field(min_length=1, max_length=100)]], Body):
    """1 to 100 users."""

    # pydantic does not allow `extra` in a RootModel; NewUser forbids unknown fields.
    model_config = ConfigDict(extra=None)


class User(BaseModel):
    """A user as the client receives it. Its version is the `ETag` header."""

    id: UUID
    name: str
    email: str
    age: int
    created_at: datetime
    updated_at: datetime


class UsersCreated(BaseModel):
    """The response to a batch."""

    created: int
    users: list[User]


class UsersPage(BaseModel):
    """One page of users."""

    users: list[User]
    has_more: bool
    page_state: str | None


class UserPath(Path):
    """Path of one user."""

    id: str = Field(description="UUID of the user.", json_schema_extra={"format": "uuid"})


class UserListQuery(Query):
    """Query parameters of `GET /users`."""

    limit: Annotated[Number, Field(ge=1, le=100, description="Number of users in this response.")] = 10
    page_state: str = optional(description="From the `Link` header of the previous response.")


class UserStreamQuery(Query):
    """Query parameters of `GET /users/stream`."""

    limit: Annotated[Number, Field(ge=0, description="Total number of users; there is no upper limit.")] = 1000
    fetch_size: Annotated[FetchSize, Field(description="Number of rows in each page from Cassandra.")] = 1000
    age_filter: MinimumAge = optional(description="Minimum age in years.")


class UserPageQuery(Query):
    """Query parameters of `GET /users/stream/pages`."""

    limit: Annotated[Number, Field(ge=0)] = optional(
        description="Total number of users over all pages; by default all. Requests with page_state may leave it out."
    )
    fetch_size: Annotated[FetchSize, Field(description="Number of users in this response.")] = 100
    age_filter: MinimumAge = optional(description="Minimum age in years.")
    page_state: str = optional(description="From the previous response.")
