"""A resource to add: the facts and names that the templates read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dev.resource import names, values
from dev.resource.columns import Column


@dataclass(frozen=True)
class Spec:
    """A resource to add.

    :ivar singular: snake_case, as is `plural`.
    :ivar key: the columns of the primary key, in order; empty with `uuid_key`.
    :ivar plain: the other columns.
    :ivar ttl: `default_time_to_live` of the table in seconds, or None.
    :ivar deletable: whether there is a DELETE route.
    :ivar uuid_key: the server generates id, times and version.
    """

    singular: str
    plural: str
    key: tuple[Column, ...]
    plain: tuple[Column, ...]
    ttl: int | None = None
    deletable: bool = True
    uuid_key: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.key + self.plain

    @property
    def partition(self) -> tuple[Column, ...]:
        return tuple(column for column in self.key if column.role == "partition")

    @property
    def clustering(self) -> tuple[Column, ...]:
        return tuple(column for column in self.key if column.role == "clustering")

    # --- names in prose and code ---------------------------------------------------------------------------

    @property
    def noun(self) -> str:
        return self.singular.replace("_", " ")

    @property
    def nouns(self) -> str:
        return self.plural.replace("_", " ")

    @property
    def a_noun(self) -> str:
        return names.with_article(self.noun)

    @property
    def cls(self) -> str:
        return names.camel_case(self.singular)

    @property
    def clss(self) -> str:
        return names.camel_case(self.plural)

    @property
    def of_partition(self) -> str:
        """The columns of the partition key in prose: `a sensor and a day`."""
        return " and ".join(names.with_article(column.noun) for column in self.partition)

    @property
    def layout(self) -> str:
        """The partitions of the table, and the order of their rows."""
        partition = " and ".join(self.names(self.partition))
        if not self.clustering:
            return f"one row per {partition}"
        order = ", then ".join(column.name + (" descending" if column.descending else "") for column in self.clustering)
        return f"one partition per {partition}, rows ordered by {order}"

    # --- paths ---------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        return f"/{self.plural if self.uuid_key else self.singular}"

    @property
    def list_rule(self) -> str:
        """Path of the rows of a partition, as a rule of Flask."""
        return self.path + "".join(f"/<{column.name}>" for column in self.partition)

    @property
    def rule(self) -> str:
        """Path of one row, as a rule of Flask."""
        if self.uuid_key:
            return f"{self.path}/<id>"
        return self.path + "".join(f"/<{column.name}>" for column in self.key)

    def list_path(self, number: int) -> str:
        """Path of the rows of an example partition."""
        return self.path + "".join(f"/{values.path_value(column, number)}" for column in self.partition)

    # --- code ----------------------------------------------------------------------------------------------

    def python(self, column: Column) -> str:
        """The Python type of a column in the row class."""
        return re.sub(r"\b(datetime|date)\b", r"dt.\1", column.python) if self._hides_a_class else column.python

    @property
    def datetime(self) -> str:
        """The class of timestamps in the row class."""
        return "dt.datetime" if self._hides_a_class else "datetime"

    @property
    def _hides_a_class(self) -> bool:
        # A field `date` hides the class `date` in the annotations after it.
        return not {"date", "datetime"}.isdisjoint(self.names(self.columns))

    def parameters(self, columns: Sequence[Column]) -> str:
        """The columns as parameters of a function."""
        return ", ".join(f"{column.name}: {self.python(column)}" for column in columns)

    def names(self, columns: Sequence[Column]) -> list[str]:
        return [column.name for column in columns]

    def in_path(self, columns: Sequence[Column]) -> str:
        """The columns as arguments of a function, from the path of the request."""
        return ", ".join(f"path.{column.name}" for column in columns)

    def where(self, columns: Sequence[Column]) -> str:
        """The condition of a WHERE clause."""
        return " AND ".join(f"{column.name} = ?" for column in columns)

    @property
    def orders(self) -> dict[str, str]:
        """The clustering columns, each with its order."""
        return {column.name: "desc" if column.descending else "asc" for column in self.clustering}

    @property
    def operations(self) -> list[str]:
        """The operations of the routes, with their names in the registry."""
        if self.uuid_key:
            offered = ["create", "read", "list", "stream", "batch", "replace", "change"]
        else:
            offered = ["create", "read", *(["list"] if self.clustering else [])]
        return [*offered, *(["delete"] if self.deletable else []), "import"]

    @property
    def table_options(self) -> str:
        """The WITH clause of CREATE TABLE."""
        options = []
        if any(column.descending for column in self.clustering):
            order = ", ".join(f"{column.name} {'DESC' if column.descending else 'ASC'}" for column in self.clustering)
            options.append(f"CLUSTERING ORDER BY ({order})")
        if self.ttl is not None:
            options.append(f"default_time_to_live = {self.ttl}")
        # By default, this delay is the 99th percentile of the table's read latency. After a fault, that may be seconds,
        # and reads then wait for a silent replica.
        options.append("speculative_retry = '50ms'")
        return f" WITH {' AND '.join(options)}"

    # --- examples ------------------------------------------------------------------------------------------

    @property
    def test_partition(self) -> int:
        """The number of the example partition that the tests use. The sample rows do not use it."""
        return 1 if all(column.type.name == "boolean" for column in self.partition) else 2

    def document(self, number: int, row: int = 0) -> dict[str, Any]:
        """An example as JSON.

        :param number: number of the example values of its partition key, 0 to 2.
        :param row: number of the example values of its other columns, 0 to 2.
        """
        return {
            column.name: values.json_value(column, number if column.role == "partition" else row)
            for column in self.columns
        }

    def clustering_values(self, row: int) -> dict[str, Any]:
        """The values of the clustering columns in an example, as JSON."""
        return {column.name: values.json_value(column, row) for column in self.clustering}

    @property
    def test_rows(self) -> int:
        """Number of example rows with different values of the first clustering column."""
        return 2 if self.clustering[0].type.name == "boolean" else 3

    @property
    def changes(self) -> dict[str, Any]:
        """Another value of one column, as JSON."""
        return {self.plain[0].name: values.json_value(self.plain[0], 1)}

    @property
    def has_large_rows(self) -> bool:
        """Whether two examples can exceed the size of a batch in Cassandra, 50 KiB by default."""
        return len(json.dumps(self.document(0))) > 30_000

    @property
    def optional(self) -> list[Column]:
        return [column for column in self.columns if column.is_optional]

    @property
    def absent(self) -> dict[str, Any]:
        """The values of the optional fields in a response if the client omitted them, as JSON."""
        return {column.name: json.loads(column.default.replace("None", "null")) for column in self.optional}

    @property
    def wrong_values(self) -> list[tuple[str, Any]]:
        """For each type: the name of one column, and a JSON value that its field rejects."""
        by_type = {column.type.name: column for column in reversed(self.columns)}
        return [(column.name, values.wrong_value(column)) for column in self.columns if column in by_type.values()]

    @property
    def sample_rows(self) -> list[str]:
        """Python source of the arguments of each sample row."""
        partitions = range(self.test_partition)
        rows = [(number, row) for number in partitions for row in (range(3) if self.clustering else [number])]
        return [
            ", ".join(
                self.sample_value(column, number if column.role == "partition" else row) for column in self.columns
            )
            for number, row in rows
        ]

    def sample_value(self, column: Column, number: int) -> str:
        """Python source of the value of a column in a sample row.

        :param number: 0 to 2. The last value of an optional column is null or empty.
        """
        return column.default if column.is_optional and number == 2 else values.python_value(column, number)
