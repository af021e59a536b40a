"""Animals: one partition a genus, one row a species."""

from __future__ import annotations

from flask import Response, g
from flask_openapi3 import APIBlueprint, Tag
from werkzeug.exceptions import NotFound

from schemas.models import Animal, GenusPath, Inserted, SpeciesPath
from storage import db_io
from web.hooks import STREAM_TYPES, route_options
from web.openapi import answers
from web.responses import Answer, location
from web.streaming import stream_response

animals = APIBlueprint("animals", __name__, abp_tags=[Tag(name="animals")])


@animals.get("/animal/<genus>", responses=answers(200, Animal, many=True, stream=True))
@route_options(produces=STREAM_TYPES, stream=True)
def list_animals(path: GenusPath) -> Response:
    """All animals of a genus, by species."""
    return stream_response(db_io.retrieve_animals_by_genus(g.session, path.genus, g.options), db_io.ANIMAL_COLUMNS)


@animals.get("/animal/<genus>/<species>", responses=answers(200, Animal, 404))
def get_animal(path: SpeciesPath) -> Answer:
    """One animal."""
    animal = db_io.retrieve_animal(g.session, path.genus, path.species, g.options)
    if animal is None:
        raise NotFound("Animal not found")
    return dict(zip(db_io.ANIMAL_COLUMNS, animal, strict=True))


@animals.post("/animal", responses=answers(201, Inserted, headers=("Location",)))
def post_animal(body: Animal) -> Answer:
    """Insert or replace an animal: the last write of a genus and species holds."""
    db_io.store_animal(g.session, [getattr(body, column) for column in db_io.ANIMAL_COLUMNS], g.options)
    return {"inserted": True}, 201, location("animals.get_animal", genus=body.genus, species=body.species)


@animals.delete("/animal/<genus>/<species>", responses=answers(204, None))
def delete_animal(path: SpeciesPath) -> Answer:
    """Delete an animal, if there is one."""
    db_io.delete_animal(g.session, path.genus, path.species, g.options)
    return "", 204
