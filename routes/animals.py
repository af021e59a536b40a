"""Animals: one partition per genus, one row per species."""

from __future__ import annotations

from flask import Response, g

from routes.blueprint import Blueprint
from routes.resource import Resource
from schemas.animals import Animal, AnimalGenusPath, AnimalPath
from schemas.base import Inserted
from storage.db_io import animals
from web.media_types import STREAM_TYPES
from web.openapi import responses
from web.responses import ResponseValue, location
from web.route_options import route_options
from web.streaming import stream_response

RESOURCE = Resource(
    animals.TABLE,
    schema=Animal,
    path="/animal",
    operations=("create", "read", "list", "delete", "import"),
    sample_path="/animal/Vulpes",
    example="{url}/animal/Vulpes",
)
blueprint = Blueprint("animals", __name__, resource=RESOURCE)


@blueprint.get("/animal/<genus>", responses=responses(200, Animal, many=True, stream=True))
@route_options(produces=STREAM_TYPES, stream=True)
def list_animals(path: AnimalGenusPath) -> Response:
    """All animals of a genus, by species."""
    return stream_response(animals.retrieve_animals_by_genus(g.session, path.genus, g.options))


@blueprint.get("/animal/<genus>/<species>", responses=responses(200, Animal, 404))
def get_animal(path: AnimalPath) -> ResponseValue:
    """One animal."""
    animal = animals.retrieve_animal(g.session, path.genus, path.species, g.options)
    return animals.TABLE.document(animal)


@blueprint.post("/animal", responses=responses(201, Inserted, headers=("Location",)))
def post_animal(body: Animal) -> ResponseValue:
    """Insert or replace an animal: the last write of a genus and species wins."""
    animals.store_animal(g.session, animals.Animal(**dict(body)), g.options)
    return {"inserted": True}, 201, location("animals.get_animal", genus=body.genus, species=body.species)


@blueprint.delete("/animal/<genus>/<species>", responses=responses(204, None))
def delete_animal(path: AnimalPath) -> ResponseValue:
    """Delete an animal, if it exists."""
    animals.delete_animal(g.session, path.genus, path.species, g.options)
    return "", 204
