"""Metrics of all workers of the instance."""

from __future__ import annotations

from flask import Response, g

from observability import metrics
from routes.blueprint import Blueprint
from schemas.service import Metrics
from web.media_types import JSON
from web.openapi import responses
from web.responses import ResponseValue
from web.route_options import route_options

_PROMETHEUS_TYPES = ("text/plain", "application/openmetrics-text")

blueprint = Blueprint("metrics", __name__, tag="service")


@blueprint.get("/metrics", responses=responses(200, Metrics, text=_PROMETHEUS_TYPES))
@route_options(
    produces=(JSON, *_PROMETHEUS_TYPES),
    session=False,
    scope="operator",
    sign_in="in production",
    trusts_private_addresses=True,
    rate_limited=False,
)
def get_metrics() -> ResponseValue:
    """Metrics of all workers: a JSON summary, or all metrics in Prometheus format."""
    if g.media_type == JSON:
        return metrics.summary()
    content_type, text = metrics.exposition(g.media_type)
    return Response(text, content_type=content_type)
