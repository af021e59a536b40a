"""Plants: one partition a genus, one row a species."""

from __future__ import annotations

from flask import Response, g
from flask_openapi3 import APIBlueprint, Tag
from werkzeug.exceptions import NotFound

from schemas.models import GenusPath, Inserted, Plant, SpeciesPath
from storage import db_io
from web.hooks import STREAM_TYPES, route_options
from web.openapi import answers
from web.responses import Answer, location
from web.streaming import stream_response

plants = APIBlueprint("plants", __name__, abp_tags=[Tag(name="plants")])


@plants.get("/plant/<genus>", responses=answers(200, Plant, many=True, stream=True))
@route_options(produces=STREAM_TYPES, stream=True)
def list_plants(path: GenusPath) -> Response:
    """All plants of a genus, by species."""
    return stream_response(db_io.retrieve_plants_by_genus(g.session, path.genus, g.options), db_io.PLANT_COLUMNS)


@plants.get("/plant/<genus>/<species>", responses=answers(200, Plant, 404))
def get_plant(path: SpeciesPath) -> Answer:
    """One plant."""
    plant = db_io.retrieve_plant(g.session, path.genus, path.species, g.options)
    if plant is None:
        raise NotFound("Plant not found")
    return dict(zip(db_io.PLANT_COLUMNS, plant, strict=True))


@plants.post("/plant", responses=answers(201, Inserted, headers=("Location",)))
def post_plant(body: Plant) -> Answer:
    """Insert or replace a plant: the last write of a genus and species holds."""
    db_io.store_plant(g.session, [getattr(body, column) for column in db_io.PLANT_COLUMNS], g.options)
    return {"inserted": True}, 201, location("plants.get_plant", genus=body.genus, species=body.species)


@plants.delete("/plant/<genus>/<species>", responses=answers(204, None))
def delete_plant(path: SpeciesPath) -> Answer:
    """Delete a plant, if there is one."""
    db_io.delete_plant(g.session, path.genus, path.species, g.options)
    return "", 204
