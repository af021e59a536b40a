"""In development, the service listens on loopback addresses and Unix sockets only.

Every client that reaches a service in development can call its diagnostics routes. The check uses the addresses that
gunicorn has bound, because its option `--bind`, or an inherited socket, replaces `HOST`.

| Private name of gunicorn | Used for |
|---|---|
| `Arbiter.LISTENERS`, `.cfg.address` | the bound sockets; with `--reuse-port`, the addresses that workers will bind |
| `Arbiter.halt` | ends the master before its first worker, and removes its pid file and Unix sockets |
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from settings import Settings

_arbiter: Any = None


def check_addresses(settings: Settings, addresses: Iterable[str]) -> None:
    """Check that the service may listen on these addresses.

    :param addresses: IP addresses, or values of `HOST`.
    :raises SettingsError: an address is not a loopback address, and the settings do not allow others.
    """
    from settings import SettingsError

    if settings.is_production or settings.allow_remote_development:
        return
    if remote := [address for address in addresses if not is_loopback(address)]:
        raise SettingsError(
            f"With APP_ENV=development, the service listens on loopback addresses only, not on {', '.join(remote)}. "
            "Set APP_ENV=production, or ALLOW_REMOTE_DEVELOPMENT=1 to let other machines call the diagnostics routes."
        )


def require(arbiter: Any, settings: Settings) -> None:
    """Check the bound addresses in gunicorn's master; if one is not allowed, end it with exit status 2.

    Call this before the master forks its workers, also after SIGHUP.
    """
    global _arbiter
    _arbiter = arbiter
    from settings import SettingsError

    try:
        check_addresses(settings, _bound(arbiter))
    except SettingsError as error:
        arbiter.halt(reason=str(error), exit_status=2)


def check_reload(previous: Settings, settings: Settings) -> None:
    """Check new settings before gunicorn applies them.

    The present addresses are checked even if `HOST` changes too, because gunicorn keeps them with `--bind` or
    `--reload`.

    :raises SettingsError: the service may not listen on its present addresses, or on a changed `HOST`.
    """
    changed = [settings.host] if settings.host != previous.host else []
    check_addresses(settings, [*_bound(_arbiter), *changed])


def _bound(arbiter: Any) -> list[str]:
    names = [listener.getsockname() for listener in arbiter.LISTENERS] or arbiter.cfg.address
    # The name of a Unix socket is a path. With --reuse-port, a number is a file descriptor.
    return [
        name[0] if isinstance(name, tuple) else f"fd://{name}" for name in names if not isinstance(name, str | bytes)
    ]


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address, which is an IP address or a value of `HOST`."""
    if address == "localhost":
        return True
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    # Before Python 3.13, is_loopback is false for ::ffff:127.0.0.1.
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback
