"""The facts about a table: its columns with their types, and its keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, get_type_hints
from uuid import UUID

from storage.cql.decoding import decoder
from storage.cql.json_values import encoder, same
from storage.cql.statement import Statement
from storage.cql.types import CqlType, parse_type

Row = TypeVar("Row", bound=tuple[Any, ...])
Order = Literal["asc", "desc"]


class Table(Generic[Row]):
    """The facts about a table. A test compares them with the migrations.

    :ivar name: of the table.
    :ivar insert: the statement that inserts all columns of a row; None if rows are not imported.
    :ivar row: the class of its rows: a NamedTuple whose fields have the form `Annotated[int, "bigint"]`.
    :ivar partition_key: names of the columns of the partition key.
    :ivar clustering_key: names of the clustering columns, each with its order.
    :ivar columns: names of all columns, each with its type.
    :ivar public_columns: names of the columns that clients receive.
    """

    def __init__(
        self,
        name: str,
        row: type[Row],
        *,
        insert: Statement | None = None,
        partition_key: tuple[str, ...],
        clustering_key: Mapping[str, Order] | None = None,
        private: tuple[str, ...] = (),
    ) -> None:
        """Read the columns from the row class.

        :param insert: its values are all columns of a row.
        :param private: names of the columns that clients never receive.
        :raises ValueError: a column has no CQL type.
        """
        self.name, self.row, self.insert = name, row, insert
        self.partition_key = partition_key
        self.clustering_key: dict[str, Order] = dict(clustering_key or {})
        self.columns: dict[str, CqlType] = {}
        # `localns={}` hides the attributes of the class, so that a column `date` may have the type `date`.
        for column, hint in get_type_hints(row, localns={}, include_extras=True).items():
            if not hasattr(hint, "__metadata__"):
                raise ValueError(f'{row.__name__}.{column} needs a CQL type: Annotated[..., "text"]')
            self.columns[column] = parse_type(hint.__metadata__[0])
        self.public_columns = tuple(column for column in self.columns if column not in private)
        public = set(self.public_columns)
        self._encoders = [
            (index, column, encoder(cql_type))
            for index, (column, cql_type) in enumerate(self.columns.items())
            if column in public
        ]
        self._decoders = {column: decoder(cql_type) for column, cql_type in self.columns.items()}

    @property
    def import_statement(self) -> Statement:
        """The INSERT of an imported row, whose last value is the write timestamp in microseconds.

        All attempts to write a row have the same timestamp, so a late one can't overwrite newer rows.
        """
        if self.insert is None:
            raise TypeError(f"rows can't be imported into {self.name}, because it has no `insert`")
        using = "AND" if " USING " in self.insert.cql else "USING"
        cql = f"{self.insert.cql} {using} TIMESTAMP ?"
        return self.insert._replace(name=f"import_{self.name}", cql=cql, idempotent=True)

    def imported(self, fields: Mapping[str, Any], job_id: UUID, created_at: datetime, line: int) -> Row:
        """The row of a line of an import: the same each time.

        :param fields: the validated body.
        :param job_id: of the import.
        :param created_at: creation time of the job.
        :param line: number of the line in the file.
        """
        return self.row(**fields)

    def document(self, row: Row) -> dict[str, Any]:
        """The row as clients receive it.

        `orjson` writes these values as the JSON that docs/types.md defines.
        """
        return {
            column: row[index] if encode is same else encode(row[index]) for index, column, encode in self._encoders
        }

    def decode(self, values: Mapping[str, bytes | None]) -> Row:
        """A row from values in the native protocol's encoding, such as those of a bound INSERT.

        :param values: by column; a column without a value is null.
        """
        fields = {
            column: None if (data := values.get(column)) is None else decode(data)
            for column, decode in self._decoders.items()
        }
        return self.row(**fields)
