"""A blueprint with the resource that its routes serve."""

from __future__ import annotations

from collections.abc import Callable

from flask_openapi3 import APIBlueprint, Tag

from routes.imports import IMPORT_OPTIONS, import_view
from routes.resource import Resource
from settings import Settings


def _always(settings: Settings) -> bool:
    return True


class Blueprint(APIBlueprint):
    """The routes of one module.

    :ivar resource: the resource that the routes serve; None for routes of the service itself.
    :ivar is_enabled: whether the routes are available in a service with these settings.
    """

    def __init__(
        self,
        name: str,
        import_name: str,
        *,
        tag: str | None = None,
        resource: Resource | None = None,
        is_enabled: Callable[[Settings], bool] = _always,
    ) -> None:
        """Create a blueprint.

        :param tag: heading of the routes in the OpenAPI document; None for the name of the blueprint.
        """
        description = resource.description if resource else None
        super().__init__(name, import_name, abp_tags=[Tag(name=tag or name, description=description)])
        self.resource = resource
        self.is_enabled = is_enabled
        if resource is not None and "import" in resource.operations:
            # The options of the OpenAPI document do not come from type hints: the view reads the body itself.
            self.post(f"{resource.path}/import", **IMPORT_OPTIONS)(import_view(resource))
