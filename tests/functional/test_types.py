"""Every CQL type: a single read, a list and a stream return the same values, and no stored value breaks a read."""

from __future__ import annotations

import itertools
import json
import re
import threading
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import orjson
import pytest
from cassandra import InvalidRequest
from cassandra.cluster import Session
from cassandra.util import Duration
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from storage.cql import QueryOptions, Statement, Table, driver, execute, stream
from storage.cql.decoding import decode_rows
from storage.cql.types import SCALARS, parse_type
from tests.support import PROJECT
from web.media_types import CSV, JSON, NDJSON
from web.streaming import format_streaming_response

pytestmark = pytest.mark.timeout(300)

# --- reading ------------------------------------------------------------------------------------------------


def read(session: Session, table: Table[Any], partition: int) -> dict[str, list[Any]]:
    """Return the rows of a partition as JSON values in each form; as CSV, each row as a list of cells."""
    options = QueryOptions(timeout=60)
    cql = f"SELECT {{columns}} FROM {{keyspace}}.{table.name} WHERE {table.partition_key[0]} = ?"
    select = Statement(f"select_{table.name}", cql, tuple(table.columns))
    json_rows = select._replace(json_rows=True)
    rows = execute(session, select, (partition,), options).rows
    found: dict[str, list[Any]] = {
        "single": [orjson.loads(orjson.dumps(table.document(row))) for row in rows],
        "page": [json.loads(text) for text in execute(session, json_rows, (partition,), options).rows],
    }
    for media_type in (JSON, NDJSON, CSV):
        pages = stream(session, json_rows, (partition,), options, fetch_size=10)
        text = b"".join(format_streaming_response(pages, media_type)).decode()
        match media_type:
            case "application/json":
                found[media_type] = json.loads(text)
            case "application/x-ndjson":
                found[media_type] = [json.loads(line) for line in text.split("\n")[:-1]]
            case _:
                header, *found[media_type] = parse_csv(text)
                assert header == list(table.columns)
    return found


def parse_csv(text: str) -> list[list[str | None]]:
    """Parse CSV in which an empty field is null and `""` is empty text; Python's parser returns "" for both."""
    rows: list[list[str | None]] = []
    row: list[str | None] = []
    position = 0
    while position < len(text):
        if text[position] == '"':
            end = position + 1
            while text[end] != '"' or text[end + 1 : end + 2] == '"':
                end += 2 if text[end] == '"' else 1
            row.append(text[position + 1 : end].replace('""', '"'))
            position = end + 1
        else:
            end = position
            while text[end] not in ",\r":
                end += 1
            row.append(text[position:end] or None)
            position = end
        if text[position] == ",":
            position += 1
            if text[position] == "\r":
                row.append(None)
        if text[position : position + 2] == "\r\n":
            rows.append(row)
            row = []
            position += 2
    return rows


def assert_same_in_every_form(session: Session, table: Table[Any], run: int) -> list[dict[str, Any]]:
    """Compare the forms of all rows of a partition. Return the rows."""
    found = read(session, table, run)
    rows: list[dict[str, Any]] = found["single"]
    assert found["page"] == found[JSON] == found[NDJSON] == rows
    assert len(found[CSV]) == len(rows)
    for cells, row in zip(found[CSV], rows, strict=True):
        for cell, value in zip(cells, row.values(), strict=True):
            if value is None or isinstance(value, str):
                assert cell == value
            else:
                assert cell is not None
                assert json.loads(cell) == value
    return rows


# --- a table with every type -------------------------------------------------------------------------------


class EveryType(NamedTuple):
    """A row of `every_type`, without vectors. The Python types are those that docs/types.md lists."""

    run: Annotated[int, "int"]
    id: Annotated[int, "int"]
    a_ascii: Annotated[str, "ascii"]
    a_text: Annotated[str, "text"]
    a_boolean: Annotated[bool, "boolean"]
    a_tinyint: Annotated[int, "tinyint"]
    a_smallint: Annotated[int, "smallint"]
    a_int: Annotated[int, "int"]
    a_bigint: Annotated[int, "bigint"]
    a_varint: Annotated[int, "varint"]
    a_decimal: Annotated[Decimal, "decimal"]
    a_float: Annotated[float, "float"]
    a_double: Annotated[float, "double"]
    a_timestamp: Annotated[Any, "timestamp"]
    a_date: Annotated[Any, "date"]
    a_time: Annotated[str, "time"]
    a_duration: Annotated[Duration, "duration"]
    a_inet: Annotated[str, "inet"]
    a_blob: Annotated[bytes, "blob"]
    a_uuid: Annotated[uuid.UUID, "uuid"]
    a_timeuuid: Annotated[uuid.UUID, "timeuuid"]
    list_text: Annotated[Any, "list<text>"]
    list_timestamp: Annotated[Any, "list<timestamp>"]
    list_list: Annotated[Any, "frozen<list<frozen<list<int>>>>"]
    set_text: Annotated[Any, "set<text>"]
    set_timestamp: Annotated[Any, "frozen<set<timestamp>>"]
    set_double: Annotated[Any, "set<double>"]
    set_decimal: Annotated[Any, "set<decimal>"]
    map_text: Annotated[Any, "map<text, int>"]
    map_timestamp: Annotated[Any, "map<timestamp, frozen<set<uuid>>>"]
    map_list: Annotated[Any, "map<frozen<list<int>>, blob>"]
    tuple_mixed: Annotated[Any, "tuple<int, text, timestamp>"]


EVERY_TYPE = Table("every_type", EveryType, partition_key=("run",), clustering_key={"id": "asc"})


class Vectors(NamedTuple):
    """A row of `vectors`, which only Cassandra 5 can store."""

    run: Annotated[int, "int"]
    id: Annotated[int, "int"]
    vector_float: Annotated[Any, "vector<float, 3>"]
    vector_text: Annotated[Any, "vector<text, 2>"]
    vector_smallint: Annotated[Any, "vector<smallint, 2>"]


VECTORS = Table("vectors", Vectors, partition_key=("run",), clustering_key={"id": "asc"})


class Proven(NamedTuple):
    """A row of `proven`, which has the types whose rows Cassandra encodes itself."""

    run: Annotated[int, "int"]
    id: Annotated[int, "int"]
    a_text: Annotated[str, "text"]
    a_ascii: Annotated[str, "ascii"]
    a_tinyint: Annotated[int, "tinyint"]
    a_smallint: Annotated[int, "smallint"]
    a_int: Annotated[int, "int"]
    a_double: Annotated[float, "double"]
    a_timestamp: Annotated[Any, "timestamp"]
    a_uuid: Annotated[uuid.UUID, "uuid"]
    a_timeuuid: Annotated[uuid.UUID, "timeuuid"]
    list_text: Annotated[Any, "frozen<list<text>>"]
    list_ascii: Annotated[Any, "list<ascii>"]


PROVEN = Table("proven", Proven, partition_key=("run",), clustering_key={"id": "asc"})


@contextmanager
def created(session: Session, *tables: Table[Any]) -> Iterator[Session]:
    """Create tables, and drop them at the end."""
    for table in tables:
        definitions = ", ".join(f"{name} {cql_type}" for name, cql_type in table.columns.items())
        definitions = definitions.replace("list<list<int>>", "frozen<list<frozen<list<int>>>>")
        definitions = definitions.replace("map<timestamp, set<uuid>>", "map<timestamp, frozen<set<uuid>>>")
        definitions = definitions.replace("map<list<int>, blob>", "map<frozen<list<int>>, blob>")
        session.execute(f"CREATE TABLE {table.name} ({definitions}, PRIMARY KEY (run, id))", timeout=60)
    yield session
    for table in tables:
        session.execute(f"DROP TABLE {table.name}", timeout=60)


@pytest.fixture(scope="module")
def types(session: Session) -> Iterator[Session]:
    """A session with the tables `every_type` and `proven`."""
    with created(session, EVERY_TYPE, PROVEN):
        yield session


@pytest.fixture(scope="module")
def vectors(session: Session, needs_cassandra_5: None) -> Iterator[Session]:
    """A session with the table `vectors`."""
    with created(session, VECTORS):
        yield session


_runs = itertools.count()


def insert(session: Session, table: Table[Any], rows: list[dict[str, Any]]) -> int:
    """Insert rows into a new partition. Return its key."""
    run = next(_runs)
    cql = f"INSERT INTO {{keyspace}}.{table.name} ({{columns}}) VALUES ({{values}})"
    statement = Statement(f"insert_{table.name}", cql, tuple(table.columns))
    for number, row in enumerate(rows):
        values = {"run": run, "id": number, **row}
        execute(session, statement, [values[name] for name in table.columns], QueryOptions(timeout=60))
    return run


# --- the examples of docs/types.md --------------------------------------------------------------------------

EXAMPLES = re.findall(
    r"^\| `([a-z]+(?:<[^`]*>)?)`(?:, `varchar`)? \| `(.*)` \| `(.*)` \|$",
    (PROJECT / "docs" / "types.md").read_text(),
    re.MULTILINE,
)


def test_types_page_has_an_example_of_every_type() -> None:
    named = {parse_type(cql_type).name for cql_type, _, _ in EXAMPLES}
    assert named == SCALARS - {"counter"} | {"list", "set", "map", "tuple", "vector"}


def is_vector(example: tuple[str, str, str]) -> bool:
    return parse_type(example[0]).name == "vector"


@pytest.fixture(scope="module")
def examples(session: Session, cassandra_major: int) -> Iterator[dict[str, list[Any]]]:
    """The examples of the page, stored in one row and read in every form. Before Cassandra 5, vectors are left out."""
    stored = [("int", "null") if is_vector(example) and cassandra_major < 5 else example[:2] for example in EXAMPLES]
    types = ["int", *(cql_type for cql_type, _ in stored)]
    fields = [(f"c{number}", Annotated[Any, cql_type]) for number, cql_type in enumerate(types)]
    # mypy knows named tuples with a literal list of fields only.
    row = NamedTuple("Example", fields)  # type: ignore[misc]
    definitions = ", ".join(f"c{number} {cql_type}" for number, cql_type in enumerate(types))
    values = ", ".join(["1", *(value for _, value in stored)])
    session.execute(f"CREATE TABLE examples ({definitions}, PRIMARY KEY (c0))", timeout=60)
    session.execute(f"INSERT INTO examples ({', '.join(row._fields)}) VALUES ({values})")
    yield read(session, Table("examples", row, partition_key=("c0",)), 1)
    session.execute("DROP TABLE examples", timeout=60)


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=[" ".join(each[:2]) for each in EXAMPLES])
def test_examples_on_the_types_page_read_as_the_page_says(
    request: pytest.FixtureRequest, examples: dict[str, list[Any]], number: int
) -> None:
    if is_vector(EXAMPLES[number]):
        request.getfixturevalue("needs_cassandra_5")
    expected = json.loads(EXAMPLES[number][2])
    for form, (row,) in examples.items():
        found = row[number + 1] if form == CSV else row[f"c{number + 1}"]
        if form == CSV and not isinstance(expected, str | None):
            found = json.loads(found)
        assert found == expected


# --- generated values --------------------------------------------------------------------------------------


def integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


# All of Unicode without lone surrogates, which are not text in UTF-8.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", '"', '""', "null", "\r\n", ",", "\\", "\\u0000", "\x00", "\ufeff", "\u2028", "🦊", '{"a": 1}', '": ""', "a\nb"]
)
ASCII = st.text(st.characters(max_codepoint=127), max_size=20)
# Timestamps and dates are written as numbers, because Python's own types end at the years 1 and 9999.
TIMESTAMP = integers(64)
# Before the year 0, Cassandra's cast to text has no sign (docs/types.md).
PROVEN_TIMESTAMP = st.integers(-62_135_596_800_000, 2**63 - 1)
DECIMAL = st.decimals(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [Decimal(text) for text in ("1E+1000", "1E-1000", "-0.00", "21.350", "1E+2147483647")]
)
FLOAT = st.floats(width=32)
TIMEUUID = st.integers(0, 2**32 - 1).map(lambda low: uuid.UUID(fields=(low, 7, 0x11F0, 0x80, 1, 2)))
DURATION = st.builds(
    lambda sign, months, days, nanoseconds: Duration(sign * months, sign * days, sign * nanoseconds),
    st.sampled_from([1, -1]),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**63 - 1),
)


def nullable(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return a strategy for rows in which any value may be null."""
    return st.lists(st.fixed_dictionaries({name: st.none() | each for name, each in values.items()}), max_size=3)


EVERY_TYPE_ROWS = nullable(
    a_ascii=ASCII,
    a_text=TEXT,
    a_boolean=st.booleans(),
    a_tinyint=integers(8),
    a_smallint=integers(16),
    a_int=integers(32),
    a_bigint=integers(64),
    a_varint=st.integers() | st.sampled_from([2**63, -(2**63), 10**1000]),
    a_decimal=DECIMAL,
    a_float=FLOAT,
    a_double=st.floats(),
    a_timestamp=TIMESTAMP,
    a_date=st.integers(0, 2**32 - 1),
    a_time=st.integers(0, 86_400 * 10**9 - 1),
    a_duration=DURATION,
    a_inet=st.ip_addresses().map(str),
    a_blob=st.binary(max_size=20),
    a_uuid=st.uuids(),
    a_timeuuid=TIMEUUID,
    list_text=st.lists(TEXT, max_size=3),
    list_timestamp=st.lists(TIMESTAMP, max_size=3),
    list_list=st.lists(st.lists(integers(32), max_size=2), max_size=3),
    set_text=st.sets(TEXT, max_size=3),
    set_timestamp=st.sets(TIMESTAMP, max_size=3),
    set_double=st.sets(st.floats(), max_size=3),
    set_decimal=st.sets(DECIMAL, max_size=3),
    map_text=st.dictionaries(TEXT, integers(32), max_size=3),
    map_timestamp=st.dictionaries(TIMESTAMP, st.sets(st.uuids(), max_size=2), max_size=3),
    map_list=st.dictionaries(st.tuples(integers(32)), st.binary(max_size=4), max_size=3),
    tuple_mixed=st.tuples(st.none() | integers(32), st.none() | TEXT, st.none() | TIMESTAMP),
)
VECTOR_ROWS = nullable(
    vector_float=st.lists(FLOAT, min_size=3, max_size=3),
    vector_text=st.lists(TEXT, min_size=2, max_size=2),
    vector_smallint=st.lists(integers(16), min_size=2, max_size=2),
)
PROVEN_ROWS = nullable(
    a_text=TEXT,
    a_ascii=ASCII,
    a_tinyint=integers(8),
    a_smallint=integers(16),
    a_int=integers(32),
    a_double=st.floats(),
    a_timestamp=PROVEN_TIMESTAMP,
    a_uuid=st.uuids(),
    a_timeuuid=TIMEUUID,
    list_text=st.lists(TEXT, max_size=3),
    list_ascii=st.lists(ASCII, max_size=3),
)
GENERATED = hypothesis_settings(
    max_examples=150,
    report_multiple_bugs=False,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
# The JSON value of types whose written value is a Python value too.
JSON_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("a_ascii", "a_text", "a_boolean", "a_tinyint", "a_smallint", "a_int"), lambda value: value),
    **dict.fromkeys(("a_bigint", "a_uuid", "a_timeuuid"), str),
    # Cassandra has no negative zero.
    "a_decimal": lambda value: str(value if value else value.copy_abs()),
    "a_varint": lambda value: str(Decimal(value)),
    "a_blob": lambda value: b64encode(value).decode(),
}


@GENERATED
@given(rows=EVERY_TYPE_ROWS)
def test_values_of_every_type_read_the_same_in_every_form(types: Session, rows: list[dict[str, Any]]) -> None:
    run = insert(types, EVERY_TYPE, rows)
    found = {row["id"]: row for row in assert_same_in_every_form(types, EVERY_TYPE, run)}
    assert len(found) == len(rows)
    for number, row in enumerate(rows):
        for name, to_json in JSON_VALUES.items():
            assert found[number][name] == (None if row[name] is None else to_json(row[name])), name


@hypothesis_settings(GENERATED, max_examples=50)
@given(rows=VECTOR_ROWS)
def test_vectors_read_the_same_in_every_form(vectors: Session, rows: list[dict[str, Any]]) -> None:
    run = insert(vectors, VECTORS, rows)
    found = assert_same_in_every_form(vectors, VECTORS, run)
    assert [row["vector_smallint"] for row in found] == [row["vector_smallint"] for row in rows]


@pytest.mark.parametrize("table", [EVERY_TYPE, PROVEN], ids=lambda table: table.name)
def test_values_of_zero_bytes_read_the_same_in_every_form(types: Session, table: Table[Any]) -> None:
    """Cassandra accepts such values for most types, from CQL only."""
    accepted = 0
    for column, cql_type in list(table.columns.items())[2:]:
        if cql_type.arguments:
            continue
        run = next(_runs)
        with suppress(InvalidRequest):
            # Cassandra 4.1 does not know the function by its newer name, such as blob_as_int.
            types.execute(f"INSERT INTO {table.name} (run, id, {column}) VALUES ({run}, 1, blobAs{cql_type}(0x))")
            assert_same_in_every_form(types, table, run)
            accepted += 1
    assert accepted > 5


def test_rows_are_decoded_in_the_thread_that_reads_them(types: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding in the driver's event loop would delay all other requests of the process."""
    threads = []

    def recording(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return decode_rows(*arguments)

    monkeypatch.setattr(driver, "decode_rows", recording)
    read(types, EVERY_TYPE, insert(types, EVERY_TYPE, [dict.fromkeys(EveryType._fields[2:])]))
    assert set(threads) == {threading.current_thread()}


@GENERATED
@given(rows=PROVEN_ROWS)
def test_rows_that_cassandra_encodes_read_the_same_in_every_form(types: Session, rows: list[dict[str, Any]]) -> None:
    run = insert(types, PROVEN, rows)
    assert len(assert_same_in_every_form(types, PROVEN, run)) == len(rows)
