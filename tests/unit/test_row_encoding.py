"""Rows as JSON: the choice of the encoder, and the corrections of Cassandra's JSON."""

from __future__ import annotations

import json

import pytest

from storage.cql import Statement
from storage.cql.row_encoding import _CassandraJson, _json_format, _ServiceJson
from storage.cql.types import parse_type

SELECT = Statement("select_rows", "SELECT {columns} FROM {keyspace}.rows", ("id", "value"))


@pytest.mark.parametrize("proven", ["text", "int", "uuid", "double", "timestamp", "list<text>"])
def test_cassandra_encodes_types_whose_json_is_proven_identical(proven: str) -> None:
    assert isinstance(_json_format(SELECT, (parse_type("int"), parse_type(proven)), True), _CassandraJson)


@pytest.mark.parametrize("other", ["bigint", "decimal", "float", "boolean", "list<timestamp>", "set<text>", "blob"])
def test_service_encodes_rows_with_any_other_type(other: str) -> None:
    assert isinstance(_json_format(SELECT, (parse_type("int"), parse_type(other)), True), _ServiceJson)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-21 06:50:04.610Z", "2026-11-21T06:50:04.610Z"),
        ("2026-11-21T06:50:04.610+0000", "2026-11-21T06:50:04.610Z"),
        ("2026-11-21T06:50:04.61", "2026-11-21T06:50:04.610Z"),
        ("+10000-01-01T00:00:00.000Z", "+10000-01-01T00:00:00.000Z"),
    ],
)
def test_timestamp_formats_of_all_servers_are_converted(moment: str, expected: str) -> None:
    """The timestamp format is detected even if the first row has no timestamp."""
    form = _CassandraJson(SELECT, {"id": parse_type("int"), "value": parse_type("timestamp")}, True)
    rows = [(json.dumps({"id": number, "value": at}),) for number, at in enumerate([None, moment])]
    for subset in (rows, rows[1:]):
        assert json.loads(form.decode(subset)[-1]) == {"id": 1, "value": expected}


@pytest.mark.parametrize(
    ("cql_type", "written", "expected"),
    [("list<text>", None, []), ("list<text>", ["a"], ["a"]), ("text", "", ""), ("text", None, None), ("int", 0, 0)],
)
def test_null_lists_are_corrected(cql_type: str, written: object, expected: object) -> None:
    form = _CassandraJson(SELECT, {"id": parse_type("int"), "value": parse_type(cql_type)}, True)
    rows = [(json.dumps({"id": number, "value": value}),) for number, value in enumerate([written, written])]
    assert [json.loads(text)["value"] for text in form.decode(rows)] == [expected, expected]


def test_timestamps_of_zero_bytes_are_null_before_cassandra_5() -> None:
    """A text column with the text `null` stays unchanged, and the order of the rows does not matter."""
    types = {name: parse_type(cql_type) for name, cql_type in (("id", "int"), ("at", "timestamp"), ("name", "text"))}
    form = _CassandraJson(SELECT, types, False)
    moments = ["2026-11-21T06:50:04.610Z", "null"]
    for written, expected in ((moments, [moments[0], None]), (moments[::-1], [None, moments[0]])):
        rows = [(json.dumps({"id": 1, "at": at, "name": "null"}),) for at in written]
        found = [json.loads(text) for text in form.decode(rows)]
        assert found == [{"id": 1, "at": at, "name": "null"} for at in expected]
