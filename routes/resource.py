"""The registry object of a resource: facts, not behavior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from schemas.base import Body
from storage.cql import Table

Operation = Literal["create", "read", "list", "stream", "batch", "replace", "change", "delete", "import"]


@dataclass(frozen=True)
class Resource:
    """The facts about a resource.

    The home page, the start-up banner, the OpenAPI document and the tests read them.

    :ivar table: name, partition key, clustering columns, and columns with their CQL types.
    :ivar schema: a row as clients receive it. Where clients choose all of its fields, it is also the request body.
    :ivar path: the path that all of its routes begin with.
    :ivar operations: the operations that its routes offer.
    :ivar new: the model of the body that creates a row; None if it is `schema`.
    :ivar sample_path: the path of some rows, for the link on the home page; None for no link.
    :ivar example: arguments of a curl command for the start-up banner, with `{url}` for the service's URL; None for no
        command.
    """

    table: Table[Any]
    schema: type[BaseModel]
    path: str
    operations: tuple[Operation, ...]
    new: type[Body] | None = None
    sample_path: str | None = None
    example: str | None = None

    @property
    def name(self) -> str:
        """The name of the table, of the blueprint and of the modules."""
        return self.table.name

    @property
    def body(self) -> type[Body]:
        """The model of the body that creates a row, which is also that of a row to import."""
        model = self.new or self.schema
        if not issubclass(model, Body):
            raise TypeError(f"{self.name}: `new` must be set, because {model.__name__} is not a request body")
        return model

    @property
    def description(self) -> str:
        """The table and its keys in one sentence, for the OpenAPI document."""
        keys = f"partition key {', '.join(self.table.partition_key)}"
        if self.table.clustering_key:
            columns = [f"{column} {order}" for column, order in self.table.clustering_key.items()]
            keys += f"; clustering columns {', '.join(columns)}"
        return f"Rows of the table {self.name}: {keys}."
