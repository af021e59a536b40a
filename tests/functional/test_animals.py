"""Animals: create, read, list, replace and delete."""

from __future__ import annotations

import uuid
from urllib.parse import quote

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


def test_sample_animals_are_loaded(live: Service) -> None:
    """A new installation has sample animals to read."""
    foxes = live.client.get("/animal/Vulpes").json()
    assert {"vulpes", "zerda"} <= {fox["species"] for fox in foxes}
    assert all(fox["taxonomy"][0] == "Animalia" for fox in foxes)
