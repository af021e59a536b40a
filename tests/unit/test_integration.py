"""The parts of `python -m tests.integration` that need no service."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.integration.client import Answer
from tests.integration.concurrency import Update, update_problems
from tests.integration.document import Operation
from tests.integration.smoke import Smoke
from tests.integration.soak import Latencies
from tests.integration.values import NoValue, Values
from tests.unit.test_fields import FIELDS, body_of


# A JSON Schema can't express the bounds of numbers that are JSON strings. Such a field needs examples.
@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"bounded BigInt", "bounded Decimal"}))
def test_values_are_generated_for_every_field_type(name: str) -> None:
    """A generated value fulfils the JSON Schema and the rules of the field."""
    model = body_of(FIELDS[name][0])
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = {"schemas": schema.pop("$defs", {})}
    for number in (0, 7, 2**28 + 1):
        body = Values(definitions, "tag1").body(schema, number)
        model.model_validate(body)


def test_examples_of_a_schema_are_used() -> None:
    """A field with a pattern of its own needs examples. Without any, the error names the field."""
    values = Values({}, "tag1")
    field = {"type": "string", "pattern": "^[A-Z]{3}!$"}
    assert values.value({**field, "examples": ["ABC!", "DEF!"]}, "code", 3) == "DEF!"
    with pytest.raises(NoValue, match="'code'"):
        values.value(field, "code", 3)


def test_values_of_different_numbers_differ() -> None:
    values = Values({}, "tag1")
    texts = {values.value({"type": "string", "maxLength": 100}, "name", number) for number in range(1000)}
    assert len(texts) == 1000
    assert all("tag1" in text for text in texts)


def test_numbers_are_written_as_the_service_returns_them() -> None:
    assert json.dumps(Values({}, "tag1").value({"type": "number"}, "depth", 5)) == "5.0"
    assert json.dumps(Values({}, "tag1").value({"type": "integer"}, "depth", 5)) == "5"


def test_updates_in_a_chain_are_accepted() -> None:
    assert update_problems("a", "c", [Update("b", "c"), Update("a", "b")], unknown=0) == []


def test_two_updates_of_one_version_are_found() -> None:
    (problem,) = update_problems("a", "c", [Update("a", "b"), Update("a", "c")], unknown=0)
    assert problem == "2 updates replaced the same version"


def test_a_lost_update_is_found() -> None:
    """The row is still at an earlier version, or was replaced by something else."""
    assert update_problems("a", "b", [Update("a", "b"), Update("b", "c")], unknown=0)
    assert update_problems("a", "x", [Update("a", "b")], unknown=0)


def test_an_update_with_an_unknown_outcome_may_have_been_applied() -> None:
    assert update_problems("a", "c", [Update("a", "b")], unknown=1) == []


def test_percentiles_are_within_two_percent() -> None:
    generator = random.Random(1)
    numbers = [generator.lognormvariate(2, 1) for _ in range(10_000)]
    one, two = Latencies(), Latencies()
    for index, value in enumerate(numbers):
        (one, two)[index % 2].add(value)
    one.merge(two)
    numbers.sort()
    for percent in (50, 95, 99):
        exact = numbers[percent * 100 - 1]
        assert exact - 0.1 <= one.percentile(percent) <= exact * 1.02 + 0.1
    assert one.count == 10_000
    assert Latencies().percentile(50) is None


@pytest.mark.parametrize(("path", "result"), [("/metrics", "skipped"), ("/observers", "failed")])
def test_metrics_that_a_proxy_hides_are_skipped(path: str, result: str) -> None:
    document = SimpleNamespace(components={}, problems=lambda operation, response: ["Undocumented status code"])
    target: Any = SimpleNamespace(document=document, token=None)
    smoke = Smoke(target, include_shutdown=False, advance=lambda: None)
    operation = Operation("GET", path, {}, {})
    smoke._add(operation, "", Answer(httpx.Response(404), "", 1.0), [])
    ((found,),) = smoke._results.values()
    assert found.result == result
