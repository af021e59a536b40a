"""One module per resource. Views check what comes in, ask `storage.db_io` one question, and answer."""

from flask_openapi3 import APIBlueprint

from diagnostics.routes import diagnostics
from routes.animals import animals
from routes.operations import operations
from routes.plants import plants
from routes.users import users

BLUEPRINTS: tuple[APIBlueprint, ...] = (
    operations,
    animals,
    plants,
    users,
    diagnostics,
)
