"""A blueprint with the facts that the home page and the start-up banner show."""

from __future__ import annotations

from collections.abc import Callable

from flask_openapi3 import APIBlueprint, Tag

from settings import Settings


def _always(settings: Settings) -> bool:
    return True


class Blueprint(APIBlueprint):
    """The routes of one module.

    :ivar sample_path: path of sample rows, to which the home page links; None for no link.
    :ivar example: arguments of a curl command for the start-up banner, with `{url}` for the service's URL; None for no
        command.
    :ivar is_enabled: whether the routes are available in a service with these settings.
    """

    def __init__(
        self,
        name: str,
        import_name: str,
        *,
        tag: str | None = None,
        sample_path: str | None = None,
        example: str | None = None,
        is_enabled: Callable[[Settings], bool] = _always,
    ) -> None:
        """Create a blueprint.

        :param tag: heading of the routes in the OpenAPI document; None for the name of the blueprint.
        """
        super().__init__(name, import_name, abp_tags=[Tag(name=tag or name)])
        self.sample_path = sample_path
        self.example = example
        self.is_enabled = is_enabled
