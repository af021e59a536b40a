"""Animals and plants: what is written is read, the last write holds, and what is deleted stays deleted."""

from __future__ import annotations

import uuid
from urllib.parse import quote

import pytest

from tests.support import Service


def unique(name: str) -> str:
    return f"{name} {uuid.uuid4().hex[:8]}"


@pytest.mark.parametrize("kind", ["animal", "plant"])
def test_life_of_a_row(live: Service, kind: str) -> None:
    """A row is created, read, listed, replaced as a whole and deleted, each with its status."""
    genus = unique("Vulpes")
    url = f"/{kind}/{quote(genus)}/zerda"
    created = live.client.post(f"/{kind}", json={"genus": genus, "species": "zerda", "sightings": 3})
    assert (created.status_code, created.json()) == (201, {"inserted": True})
    assert created.headers["Location"] == url
    row = live.client.get(url).json()
    assert row["sightings"] == 3
    assert live.client.get(f"/{kind}/{genus}").json() == [row]
    live.client.post(f"/{kind}", json={"genus": genus, "species": "zerda"})
    assert live.client.get(url).json()["sightings"] == 0
    assert live.client.delete(url).status_code == 204
    assert live.client.delete(url).status_code == 204
    assert live.client.get(url).status_code == 404
    assert live.client.get(f"/{kind}/{genus}").json() == []


def test_every_field_of_an_animal_comes_back(live: Service) -> None:
    """No field is lost or changed on the way, also where text is not Latin."""
    animal = {
        "genus": unique("狐 🦊"),
        "species": "été #1?",
        "image_url": "https://example.org/fox.jpg?size=1",
        "size_cm": 35.5,
        "sightings": 2147483647,
        "taxonomy": ["Animalia", "Carnivora"],
    }
    created = live.client.post("/animal", json=animal)
    assert created.status_code == 201
    assert live.client.get(created.headers["Location"]).json() == animal


def test_replacing_clears_what_is_left_out(live: Service) -> None:
    """The last write holds as a whole: a value that it does not name is gone, not the one from before."""
    genus = unique("Lynx")
    full = {"genus": genus, "species": "lynx", "image_url": "https://example.org/a", "size_cm": 1, "taxonomy": ["a"]}
    live.client.post("/animal", json=full)
    live.client.post("/animal", json={"genus": genus, "species": "lynx"})
    row = live.client.get(f"/animal/{genus}/lynx").json()
    assert (row["image_url"], row["size_cm"], row["taxonomy"]) == (None, None, [])


def test_large_genus_is_whole_and_in_order(live: Service) -> None:
    """A genus of many pages comes without gaps, repeats or a page's end showing."""
    species = [row["species"] for row in live.client.get("/plant/Hieracium").json()]
    assert len(species) == 12_000
    assert species == sorted(set(species))


def test_sample_rows(live: Service) -> None:
    """A newcomer finds something to look at."""
    foxes = live.client.get("/animal/Vulpes").json()
    assert {"vulpes", "zerda"} <= {fox["species"] for fox in foxes}
    assert all(fox["taxonomy"][0] == "Animalia" for fox in foxes)
