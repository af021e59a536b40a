"""Animals: create, read, list, replace and delete."""

from __future__ import annotations

import csv
import io
import json
import uuid
from typing import Any
from urllib.parse import quote

import pytest

from storage.sample_data import animals
from tests.functional.problems import assert_problem
from tests.support import Service


def unique_genus(name: str) -> str:
    return f"{name} {uuid.uuid4().hex[:8]}"


def test_each_operation_is_visible_to_the_next_request(live: Service) -> None:
    """Each operation returns its status, and its effect is visible to the next request."""
    genus = unique_genus("Vulpes")
    url = f"/animal/{quote(genus)}/zerda"
    created = live.client.post("/animal", json={"genus": genus, "species": "zerda", "sightings": 3})
    assert (created.status_code, created.json()) == (201, {"inserted": True})
    assert created.headers["Location"] == url
    row = live.client.get(url).json()
    assert row["sightings"] == 3
    assert live.client.get(f"/animal/{genus}").json() == [row]
    live.client.post("/animal", json={"genus": genus, "species": "zerda"})
    assert live.client.get(url).json()["sightings"] == 0
    assert live.client.delete(url).status_code == 204
    assert live.client.delete(url).status_code == 204
    assert live.client.get(url).status_code == 404
    assert live.client.get(f"/animal/{genus}").json() == []


def test_every_field_is_returned_unchanged(live: Service) -> None:
    """Reading an animal returns every field as it was written, including text outside ASCII."""
    animal = {
        "genus": unique_genus("狐 🦊"),
        "species": "été #1?",
        "image_url": "https://example.org/fox.jpg?size=1",
        "size_cm": 35.5,
        "sightings": 2147483647,
        "taxonomy": ["Animalia", "Carnivora"],
    }
    created = live.client.post("/animal", json=animal)
    assert created.status_code == 201
    assert live.client.get(created.headers["Location"]).json() == animal


def test_replacing_clears_omitted_fields(live: Service) -> None:
    """A second POST replaces the whole row: fields that it omits do not keep their old values."""
    genus = unique_genus("Lynx")
    full = {"genus": genus, "species": "lynx", "image_url": "https://example.org/a", "size_cm": 1, "taxonomy": ["a"]}
    live.client.post("/animal", json=full)
    live.client.post("/animal", json={"genus": genus, "species": "lynx"})
    row = live.client.get(f"/animal/{genus}/lynx").json()
    assert (row["image_url"], row["size_cm"], row["taxonomy"]) == (None, None, [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_url", "ftp://example.org/a"),
        ("image_url", "javascript:alert(1)"),
        ("image_url", "https://"),
        ("image_url", ""),
        ("image_url", "http:foo"),
        ("image_url", "http:////a"),
        ("size_cm", 0),
        ("size_cm", -1.5),
        ("size_cm", "big"),
        ("taxonomy", "Animalia"),
        ("taxonomy", [1]),
        ("taxonomy", None),
    ],
)
def test_invalid_fields_are_rejected(live: Service, field: str, value: Any) -> None:
    """The error names the field, and nothing is stored."""
    genus = unique_genus("Hostile")
    problem = assert_problem(live.client.post("/animal", json={"genus": genus, "species": "probe", field: value}), 422)
    place = ["body", field, 0] if value == [1] else ["body", field]
    assert [error["loc"] for error in problem["errors"]] == [place]
    assert live.client.get(f"/animal/{genus}").json() == []


def test_path_with_control_characters_is_not_found(live: Service) -> None:
    assert_problem(live.client.get("/animal/%00/%0a"), 404)


def test_cql_in_a_list_is_not_executed(live: Service) -> None:
    injection = "'; DROP TABLE animals; --"
    created = live.client.post("/animal", json={"genus": injection, "species": injection, "taxonomy": [injection]})
    assert live.client.get(created.headers["Location"]).json()["taxonomy"] == [injection]
    assert live.client.delete(created.headers["Location"]).status_code == 204


def test_csv_encoding_of_lists_nulls_and_quotes(live: Service) -> None:
    """A list is encoded as JSON, a null as an empty cell, and commas and quotes are escaped."""
    genus = unique_genus("Vulpes")
    live.client.post("/animal", json={"genus": genus, "species": 'a "b", c', "taxonomy": ["x", "y,z"]})
    response = live.client.get(f"/animal/{genus}", headers={"Accept": "text/csv"})
    (row,) = csv.DictReader(io.StringIO(response.text))
    assert row["species"] == 'a "b", c'
    assert json.loads(row["taxonomy"]) == ["x", "y,z"]
    assert row["size_cm"] == ""


def test_sample_animals_are_loaded(live: Service) -> None:
    """A new installation has sample animals to read."""
    foxes = live.client.get("/animal/Vulpes").json()
    assert {"vulpes", "zerda"} <= {fox["species"] for fox in foxes}
    assert all(fox["taxonomy"][0] == "Animalia" for fox in foxes)
    rows = list(animals.rows())
    assert len(rows) >= 20
    assert len({row.genus for row in rows}) >= 8
    assert all(row.taxonomy for row in rows)
