"""The product with a route that reads a streamed body, as the WSGI application `UPLOADS`."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from flask import request
from flask_openapi3 import OpenAPI

import api
from routes import BLUEPRINTS
from routes.blueprint import Blueprint
from server.streamed_body import STREAMED_BODIES, BodyAborted, StreamedBody
from web.route_options import route_options

# deploy/nginx forwards paths of this form without buffering.
PATH = "/uploads/import"
# For gunicorn.
UPLOADS = "tests.testbed.uploads:create_app()"

blueprint = Blueprint("uploads", __name__)


@blueprint.post(PATH)
@route_options(session=False, limited=False)
def post_upload() -> tuple[dict[str, Any], int]:
    """Count the bytes of the body. With the header `Refuse`, return that status without reading the body."""
    if status := request.headers.get("Refuse"):
        return {}, int(status)
    body = StreamedBody(request.environ)
    count, digest, problem = 0, sha256(), None
    try:
        while data := body.read(65536):
            count += len(data)
            digest.update(data)
    except BodyAborted as error:
        problem = error.problem
    return {"bytes": count, "sha256": digest.hexdigest(), "problem": problem}, 200


def create_app() -> OpenAPI:
    """Create the application: gunicorn calls it."""
    app = api.create_app(blueprints=(*BLUEPRINTS, blueprint))
    app.extensions[STREAMED_BODIES] = app.extensions.get(STREAMED_BODIES, frozenset()) | {PATH}
    return app
