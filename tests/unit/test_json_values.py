"""JSON values do not depend on the order in which Cassandra or a client sends the elements of sets and maps."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest

from storage.cql.json_values import encoder
from storage.cql.types import parse_type


@pytest.mark.parametrize(
    ("cql_type", "one", "other"),
    [
        ("set<int>", [10, 9], [9, 10]),
        ("set<uuid>", [UUID(int=2**127), UUID(int=1)], [UUID(int=1), UUID(int=2**127)]),
        ("set<map<text, int>>", [{"b": 1, "a": 2}, {"a": 3}], [{"a": 3}, {"a": 2, "b": 1}]),
        ("set<set<inet>>", [["::2", "10.0.0.1"], ["::1"]], [["::1"], ["10.0.0.1", "::2"]]),
        ("list<set<text>>", [["b", "a"]], [["a", "b"]]),
        ("map<int, set<int>>", {2: [4, 3], 10: []}, {10: [], 2: [3, 4]}),
    ],
)
def test_elements_of_sets_and_entries_of_maps_are_sorted(cql_type: str, one: Any, other: Any) -> None:
    encode = encoder(parse_type(cql_type))
    assert orjson.dumps(encode(one)) == orjson.dumps(encode(other))
