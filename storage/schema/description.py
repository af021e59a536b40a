"""Compare the schema of a keyspace with storage/schema.json, and its tables with the statements of `storage.db_io`.

`make schema` writes storage/schema.json. A description of a schema is a dict that JSON can hold:

    {
      "tables": {
        "readings": {
          "columns": {"sensor": "text", "recorded_at": "timestamp", "unit": "text static"},
          "partition_key": ["sensor"],
          "clustering_key": ["recorded_at DESC"],
          "indexes": {"readings_unit": {"kind": "COMPOSITES", "target": "unit"}},
          "options": {"compaction.class": "TimeWindowCompactionStrategy"}
        }
      },
      "types": {"position": {"latitude": "double", "longitude": "double"}},
      "views": {"by_unit": {"base_table": "readings", "where": "…", "columns": …, the rest as in a table}},
      "optional": ["table readings: index readings_unit"]
    }

`options` has the table options that differ from the server's defaults. `optional` is in storage/schema.json only. It
names what the migrations create with statements that some servers refuse.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import cassandra
import cassandra.protocol
from cassandra.cluster import Session

from storage import db_io
from storage.cql.driver import prepare
from storage.cql.statement import Statement, cql_text
from storage.schema import SchemaError, history, lock
from storage.schema.transactions import reason

SCHEMA_FILE = Path(__file__).resolve().parents[1] / "schema.json"

# The tables of the migration runner, which no migration creates.
RUNNER_TABLES = frozenset({history.TABLE, lock.TABLE})

# Columns of system_schema.tables and system_schema.views that are no table options. `extensions` holds what other
# servers than Cassandra add.
_NO_OPTIONS = frozenset(
    "keyspace_name table_name id flags extensions "
    "view_name base_table_id base_table_name include_all_columns where_clause".split()
)
_FILE = "storage/schema.json"
# What the driver raises for a statement that the server refuses: some errors have a class of their own in `cassandra`.
REFUSALS = (cassandra.RequestValidationException, cassandra.protocol.RequestValidationException)

Description = dict[str, Any]
# The items of each table, type and view, for example {"table users": {"column age": "int"}}.
Items = dict[str, dict[str, str]]


class Comparison(NamedTuple):
    """How a keyspace differs from storage/schema.json. Each entry is one sentence.

    :ivar differences: to correct, in the keyspace or in the migrations.
    :ivar notes: what the keyspace lacks although this server may support it, such as an optional index.
    """

    differences: list[str]
    notes: list[str]


def check(session: Session, keyspace: str, expected_path: Path = SCHEMA_FILE, with_options: bool = True) -> Comparison:
    """Compare a keyspace with storage/schema.json, and prepare all statements that `storage.db_io` declares.

    This only reads, so it needs no right to create tables.

    :param with_options: also compare table options. Astra DB ignores most of them, without an error.
    :raises SchemaError: the file can't be read, or no migration was applied to the keyspace.
    :raises Exception: any exception of the driver except those of a refused statement.
    """
    expected, found = read(expected_path), describe(session, keyspace)
    if not with_options:
        for table in (
            table for each in (expected, found) for kind in ("tables", "views") for table in each[kind].values()
        ):
            table["options"] = {}
    differences, notes = compare(expected, found)
    return Comparison([*differences, *refused_statements(session, keyspace)], notes)


def read(path: Path = SCHEMA_FILE) -> Description:
    """The description in a file.

    :raises SchemaError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path} can't be read: {error}. `make schema` writes it.") from error


# --- describe ----------------------------------------------------------------------------------------------


def describe(session: Session, keyspace: str) -> Description:
    """The schema of a keyspace, without the tables of the migration runner.

    :raises SchemaError: no migration was applied to the keyspace.
    """
    tables = {row["table_name"]: row for row in _rows(session, "tables", keyspace)}
    if history.TABLE not in tables:
        raise SchemaError(f"Keyspace {keyspace} has no table {history.TABLE}: apply the migrations first.")
    # The runner creates this table without options, so it has the server's defaults.
    defaults = _all_options(tables[history.TABLE])
    columns: dict[str, list[Mapping[str, Any]]] = {}
    for row in _rows(session, "columns", keyspace):
        columns.setdefault(row["table_name"], []).append(row)
    indexes: dict[str, dict[str, Any]] = {name: {} for name in tables}
    for row in _rows(session, "indexes", keyspace):
        options = {option: _short(value) for option, value in row["options"].items()}
        indexes[row["table_name"]][row["index_name"]] = {"kind": row["kind"], **options}
    # ScyllaDB stores an index in a view of this name.
    hidden = {f"{index}_index" for each in indexes.values() for index in each}
    return {
        "tables": {
            name: {**_layout(columns[name]), "indexes": indexes[name], "options": _options(row, defaults)}
            for name, row in tables.items()
            if name not in RUNNER_TABLES
        },
        "types": {
            row["type_name"]: dict(zip(row["field_names"], row["field_types"], strict=True))
            for row in _rows(session, "types", keyspace)
        },
        "views": {
            row["view_name"]: {
                "base_table": row["base_table_name"],
                "where": row["where_clause"],
                **_layout(columns[row["view_name"]]),
                "options": _options(row, defaults),
            }
            for row in _rows(session, "views", keyspace)
            if row["view_name"] not in hidden
        },
    }


def _rows(session: Session, table: str, keyspace: str) -> list[dict[str, Any]]:
    """The rows of a keyspace in a table of system_schema, by column. Servers differ in the columns that they have."""
    result = session.execute(f"SELECT * FROM system_schema.{table} WHERE keyspace_name = %s", (keyspace,))
    names = result.column_names
    return [dict(zip(names, row, strict=True)) for row in result]


def _layout(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns and keys, from rows of system_schema.columns."""
    rows = sorted(rows, key=lambda row: row["position"])
    return {
        "columns": {row["column_name"]: row["type"] + " static" * (row["kind"] == "static") for row in rows},
        "partition_key": [row["column_name"] for row in rows if row["kind"] == "partition_key"],
        "clustering_key": [
            f"{row['column_name']} {row['clustering_order'].upper()}" for row in rows if row["kind"] == "clustering"
        ],
    }


def _all_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a table. The entries of an option that is a map are options of their own."""
    options: dict[str, Any] = {}
    for name, value in row.items():
        if name in _NO_OPTIONS or value is None:
            continue
        if isinstance(value, Mapping):
            options |= {f"{name}.{entry}": _short(text) for entry, text in value.items()}
        else:
            options[name] = _policy(value) if name in ("speculative_retry", "additional_write_policy") else value
    return options


def _options(row: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options that differ from the defaults. An option that only the defaults have is None."""
    options = _all_options(row)
    return {
        name: options.get(name) for name in options.keys() | defaults.keys() if options.get(name) != defaults.get(name)
    }


def _short(value: str) -> str:
    """The name of a Java class without its package, because servers differ in it. Other values are unchanged."""
    return value.rpartition(".")[2] if re.fullmatch(r"(\w+\.)+[A-Z]\w+", value) else value


def _policy(value: str) -> str:
    """A speculative retry policy as Cassandra writes it. ScyllaDB writes 50ms as 50.00ms, and 99p as 99.0PERCENTILE."""
    return re.sub(r"\.0+(?=[a-z])", "", value.lower()).replace("percentile", "p")


# --- compare -----------------------------------------------------------------------------------------------


def compare(expected: Description, found: Description) -> Comparison:
    """Compare two descriptions in both directions.

    :param expected: the content of storage/schema.json.
    :param found: the description of a keyspace.
    """
    result = Comparison([], [])
    optional = expected.get("optional", [])
    expected_items, found_items = items(expected), items(found)
    for thing in sorted(expected_items.keys() | found_items.keys()):
        if thing not in expected_items:
            result.differences.append(f"{thing} is in the keyspace, but not in {_FILE}")
        elif thing in found_items:
            _compare_items(thing, expected, expected_items[thing], found_items[thing], result)
        elif thing in optional:
            result.notes.append(f"{thing} is missing in the keyspace; it is optional, because some servers refuse it")
        else:
            result.differences.append(f"{thing} is in {_FILE}, but not in the keyspace")
    return result


def _compare_items(
    thing: str, description: Description, expected: dict[str, str], found: dict[str, str], result: Comparison
) -> None:
    for item in sorted(expected.keys() | found.keys()):
        if expected.get(item) == found.get(item):
            continue
        if item not in found and f"{thing}: {item}" in description.get("optional", []):
            result.notes.append(
                f"{thing}: {item} is missing in the keyspace; it is optional, because some servers refuse it"
                + _how_to_create(description, thing, item)
            )
            continue
        absent = "the server's default" if item.startswith("option ") else "missing"
        result.differences.append(
            f"{thing}: {item} is {found.get(item, absent)} in the keyspace, {expected.get(item, absent)} in {_FILE}"
        )


def items(description: Description) -> Items:
    """What a description consists of, by the names that the sentences about it use."""
    found: Items = {}
    for name, table in description["tables"].items():
        found[f"table {name}"] = _table_items(table)
    for name, view in description["views"].items():
        found[f"view {name}"] = {"base table": view["base_table"], "condition": view["where"], **_table_items(view)}
    for name, fields in description["types"].items():
        found[f"type {name}"] = {f"field {field}": cql_type for field, cql_type in fields.items()}
    return found


def _table_items(table: Mapping[str, Any]) -> dict[str, str]:
    found = {f"column {name}": cql_type for name, cql_type in table["columns"].items()}
    found["partition key"] = f"({', '.join(table['partition_key'])})"
    found["clustering key"] = f"({', '.join(table['clustering_key'])})"
    for name, index in table.get("indexes", {}).items():
        found[f"index {name}"] = ", ".join(f"{option} {index[option]}" for option in sorted(index))
    for name, value in table["options"].items():
        found[f"option {name}"] = "not set" if value is None else str(value)
    return found


def _how_to_create(description: Description, thing: str, item: str) -> str:
    """The end of a sentence about an item that is missing: the CQL statement that creates it if it is an index."""
    kind, _, name = item.partition(" ")
    if kind != "index":
        return ""
    table = thing.removeprefix("table ")
    options = dict(description["tables"][table]["indexes"][name])
    custom, target, used = options.pop("kind") == "CUSTOM", options.pop("target"), options.pop("class_name", None)
    cql = f"CREATE {'CUSTOM ' * custom}INDEX IF NOT EXISTS {name} ON {table} ({target})"
    if used:
        cql += f" USING '{used}'"
    if options:
        cql += f" WITH OPTIONS = {options}"
    return f". To create it: {cql};"


# --- statements --------------------------------------------------------------------------------------------


def refused_statements(session: Session, keyspace: str) -> list[str]:
    """A sentence about each statement of `storage.db_io` that the server refuses to prepare for a keyspace."""
    refused = []
    for statement, module in _declared_statements().items():
        try:
            prepare(session, cql_text(statement, keyspace))
        except REFUSALS as error:
            refused.append(f"statement {statement.name} of {module}: the server refuses it: {reason(error)}")
    return refused


def _declared_statements() -> dict[Statement, str]:
    """The statements of the modules in `storage.db_io`, each with the name of its module."""
    found: dict[Statement, str] = {}
    for each in pkgutil.iter_modules(db_io.__path__, f"{db_io.__name__}."):
        module = import_module(each.name)
        for name, value in vars(module).items():
            if not name.startswith("__"):
                for statement in _statements_in(value):
                    found.setdefault(statement, each.name)
    return found


def _statements_in(value: Any) -> Iterator[Statement]:
    """The statements in a value of a module: in collections too, and in objects of the classes of `storage.db_io`."""
    if isinstance(value, Statement):
        yield value
        return
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, (tuple, list, set, frozenset)):
        inner = value
    elif type(value).__module__.startswith(f"{db_io.__name__}."):
        inner = getattr(value, "__dict__", {}).values()
    for each in inner:
        yield from _statements_in(each)
