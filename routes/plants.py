"""Plants: one partition per genus, one row per species."""

from __future__ import annotations

from flask import Response, g

from routes.blueprint import Blueprint
from routes.resource import Resource
from schemas.base import Inserted
from schemas.plants import Plant, PlantGenusPath, PlantPath
from storage.db_io import plants
from web.media_types import STREAM_TYPES
from web.openapi import responses
from web.responses import ResponseValue, location
from web.route_options import route_options
from web.streaming import stream_response

RESOURCE = Resource(
    plants.TABLE,
    schema=Plant,
    path="/plant",
    operations=("create", "read", "list", "delete", "import"),
    sample_path="/plant/Quercus",
    example="-s {url}/plant/Hieracium -H 'Accept: application/x-ndjson' | head -3",
)
blueprint = Blueprint("plants", __name__, resource=RESOURCE)


@blueprint.get("/plant/<genus>", responses=responses(200, Plant, many=True, stream=True))
@route_options(produces=STREAM_TYPES, stream=True)
def list_plants(path: PlantGenusPath) -> Response:
    """All plants of a genus, by species."""
    return stream_response(plants.retrieve_plants_by_genus(g.session, path.genus, g.options))


@blueprint.get("/plant/<genus>/<species>", responses=responses(200, Plant, 404))
def get_plant(path: PlantPath) -> ResponseValue:
    """One plant."""
    plant = plants.retrieve_plant(g.session, path.genus, path.species, g.options)
    return plants.TABLE.document(plant)


@blueprint.post("/plant", responses=responses(201, Inserted, headers=("Location",)))
def post_plant(body: Plant) -> ResponseValue:
    """Insert or replace a plant: the last write of a genus and species wins."""
    plants.store_plant(g.session, plants.Plant(**dict(body)), g.options)
    return {"inserted": True}, 201, location("plants.get_plant", genus=body.genus, species=body.species)


@blueprint.delete("/plant/<genus>/<species>", responses=responses(204, None))
def delete_plant(path: PlantPath) -> ResponseValue:
    """Delete a plant, if it exists."""
    plants.delete_plant(g.session, path.genus, path.species, g.options)
    return "", 204
