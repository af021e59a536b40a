"""Plants: create, read, list, replace and delete, and a genus of many pages."""

from __future__ import annotations

import uuid
from urllib.parse import quote

from tests.support import Service


def test_each_operation_is_visible_to_the_next_request(live: Service) -> None:
    """Each operation returns its status, and its effect is visible to the next request."""
    genus = f"Quercus {uuid.uuid4().hex[:8]}"
    url = f"/plant/{quote(genus)}/robur"
    created = live.client.post("/plant", json={"genus": genus, "species": "robur", "sightings": 3})
    assert (created.status_code, created.json()) == (201, {"inserted": True})
    assert created.headers["Location"] == url
    row = live.client.get(url).json()
    assert row["sightings"] == 3
    assert live.client.get(f"/plant/{genus}").json() == [row]
    live.client.post("/plant", json={"genus": genus, "species": "robur"})
    assert live.client.get(url).json()["sightings"] == 0
    assert live.client.delete(url).status_code == 204
    assert live.client.delete(url).status_code == 204
    assert live.client.get(url).status_code == 404
    assert live.client.get(f"/plant/{genus}").json() == []


def test_large_genus_has_all_its_species_in_order(live: Service) -> None:
    """A genus that spans many pages has no missing or repeated species, and they are sorted."""
    species = [row["species"] for row in live.client.get("/plant/Hieracium").json()]
    assert len(species) == 12_000
    assert species == sorted(set(species))
