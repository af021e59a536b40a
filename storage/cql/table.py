"""The facts about a table: its columns with their types, and its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar, get_type_hints

from storage.cql.decoding import decoder
from storage.cql.json_values import encoder, same
from storage.cql.types import CqlType, parse_type

Row = TypeVar("Row", bound=tuple[Any, ...])
Order = Literal["asc", "desc"]


class Table(Generic[Row]):
    """The facts about a table. A test compares them with the migrations.

    :ivar name: of the table.
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
        partition_key: tuple[str, ...],
        clustering_key: Mapping[str, Order] | None = None,
        private: tuple[str, ...] = (),
    ) -> None:
        """Read the columns from the row class.

        :param private: names of the columns that clients never receive.
        :raises ValueError: a column has no CQL type.
        """
        self.name, self.row = name, row
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

    def document(self, row: Row) -> dict[str, Any]:
        """The row as clients receive it: values that `orjson` writes as the JSON that docs/types.md defines."""
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
