"""Options of a view, for the hooks and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from auth.callers import Scope
from settings import Settings
from web.media_types import JSON

# The kinds of requests that web/concurrency_limit.py limits.
RequestKind = Literal["data", "stream", "service", "import"]
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
    :ivar scope: what the caller's token must allow. None for `read` with GET and `write` with other methods; `account`
        for a route about the caller's own account, with any scope; `open` for a route without sign-in.
    :ivar sign_in: when the route requires its scope: as the setting AUTH says, or also with AUTH=off in production, or
        always. With AUTH=writes, routes with the scope `read` are open.
    :ivar private: the route requires the scope `read` also with AUTH=writes.
    :ivar trusts_private_addresses: clients with a private or loopback address need no token.
    :ivar writes: false for a route that also works in read-only mode, although its method is not GET.
    :ivar form: the model of a body that may be a form or JSON. The view reads it with `get_form_or_json()`.
    :ivar upload: the view reads the body while it arrives (`server/streamed_body.py`). The request has no deadline,
        unless the client sends one, and counts against a limit of its own.
    :ivar shares_path: the path is also a path of another route, whose methods stay available: `GET /animal/import` is
        the animals of the genus `import`.
    :ivar rate_limited: false for the health routes and the metrics, which no rate limit applies to.
    """

    produces: tuple[str, ...] = (JSON,)
    session: bool = True
    stream: bool = False
    limited: bool = True
    any_host: bool = False
    timeout: float | None = None
    scope: Scope | Literal["account", "open"] | None = None
    sign_in: Literal["by setting", "in production", "everywhere"] = "by setting"
    private: bool = False
    trusts_private_addresses: bool = False
    writes: bool = True
    form: type[BaseModel] | None = None
    upload: bool = False
    shares_path: bool = False
    rate_limited: bool = True

    @property
    def kind(self) -> RequestKind | None:
        """The kind of request for the concurrency limit; None if there is no limit."""
        if not self.limited:
            return None
        if not self.session:
            return "service"
        if self.upload:
            return "import"
        return "stream" if self.stream else "data"

    def required_scope(self, method: str, settings: Settings) -> Scope | Literal["account"] | None:
        """The scope that a request must have in a service with these settings; None for none."""
        scope = self.scope or ("read" if method in ("GET", "HEAD") else "write")
        if scope == "open":
            return None
        if settings.sign_in == "off":
            enforced = self.sign_in == "everywhere" or (self.sign_in == "in production" and settings.is_production)
            return scope if enforced else None
        if settings.sign_in == "writes" and scope == "read" and not self.private:
            return None
        return scope


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
