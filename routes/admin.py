"""Routes for operators."""

from __future__ import annotations

from werkzeug.exceptions import NotImplemented as NotImplementedByServer

from routes.blueprint import Blueprint
from schemas.service import Message
from server.graceful_shutdown import can_shut_down, shut_down
from web.openapi import responses
from web.responses import ResponseValue
from web.route_options import route_options

blueprint = Blueprint("admin", __name__, tag="service")


@blueprint.post("/shutdown", responses=responses(202, Message, 501))
@route_options(session=False, scope="operator", sign_in="everywhere")
def shutdown() -> ResponseValue:
    """Drain and stop this instance with all its workers. For operators."""
    if not can_shut_down():
        raise NotImplementedByServer(
            "Only gunicorn can be stopped by a request; this service runs under another server."
        )
    seconds = shut_down()
    draining = f"for {seconds:g} s all requests are served while /health returns 503; then " if seconds else ""
    return {"message": f"Shutdown initiated: {draining}in-flight requests complete."}, 202
