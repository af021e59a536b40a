"""Options of a view, for the hooks and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from settings import Settings
from web.media_types import JSON

# The kinds of requests that web/concurrency_limit.py limits.
RequestKind = Literal["data", "stream", "service"]
View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class RouteOptions:
    """Options of a view.

    :ivar produces: media types that the view can return, the default first; empty for no content negotiation.
    :ivar session: the hooks set `g.session`, and the request counts against the concurrency limit. Routes without it
        (metrics, shutdown, docs) have a small limit of their own, so they stay available under overload.
    :ivar stream: the request counts against the limit of streams too. It has a timeout for each page instead of a
        deadline, unless the client sends a deadline.
    :ivar limited: false for the health routes, which count against no limit and never wait.
    :ivar any_host: the route ignores TRUSTED_HOSTS, because probes send the address of the instance.
    :ivar timeout: seconds until the deadline if the client sends none; None for the setting REQUEST_TIMEOUT.
    :ivar operators: in which environments only operators may call the route: all (`everywhere`), only production, or
        none (None).
    """

    produces: tuple[str, ...] = (JSON,)
    session: bool = True
    stream: bool = False
    limited: bool = True
    any_host: bool = False
    timeout: float | None = None
    operators: Literal["everywhere", "in production"] | None = None

    @property
    def kind(self) -> RequestKind | None:
        """The kind of request for the concurrency limit; None if there is no limit."""
        if not self.limited:
            return None
        if not self.session:
            return "service"
        return "stream" if self.stream else "data"

    def operators_only(self, settings: Settings) -> bool:
        """Whether only operators may call the route in a service with these settings."""
        return self.operators == "everywhere" or (
            self.operators == "in production" and settings.app_env == "production"
        )


_DEFAULT = RouteOptions()


def route_options(**options: Any) -> Callable[[View], View]:
    """Set the options of a view. Place this decorator below the route decorator.

    :param options: fields of :class:`RouteOptions`.
    """

    def mark(view: View) -> View:
        view.route_options = RouteOptions(**options)  # type: ignore[attr-defined]
        return view

    return mark


def options_of(view: object) -> RouteOptions:
    """The options of a view."""
    return getattr(view, "route_options", _DEFAULT)
