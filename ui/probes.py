"""The probes of the diagnostics, from the OpenAPI document.

Don't import them: the folder `diagnostics/` may have been removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from flask import current_app

from web.openapi import current_document

# The name of the blueprint and the tag of its routes.
_DIAGNOSTICS = "diagnostics"


@dataclass(frozen=True)
class Probe:
    """A route that runs a probe.

    :ivar count: the JSON Schema of the query parameter `requests`; None if the probe has none.
    """

    method: str
    path: str
    summary: str
    count: dict[str, Any] | None

    @property
    def title(self) -> str:
        """The last segment of the path, as words."""
        return self.path.rpartition("/")[2].replace("_", " ").capitalize()


def has_probes() -> bool:
    """Whether the service has the diagnostics, and DIAGNOSTICS is on."""
    return _DIAGNOSTICS in current_app.blueprints


def probes() -> list[Probe]:
    """All probes, in the order of the document."""
    document = orjson.loads(current_document())
    return [
        Probe(method.upper(), path, operation["summary"], _count(operation))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if _DIAGNOSTICS in operation.get("tags", ())
    ]


def _count(operation: dict[str, Any]) -> dict[str, Any] | None:
    schemas = (each["schema"] for each in operation["parameters"] if each.get("name") == "requests")
    return next(schemas, None)
