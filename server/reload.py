"""Reload of code and settings, for SIGHUP and for gunicorn's `--reload`.

A worker is a fork of the master and inherits the modules that the master imported. Those would be stale in each
worker that starts later. The project's modules are therefore dropped from `sys.modules` and imported again:

- on SIGHUP in the master, when gunicorn runs gunicorn.conf.py again (`import_settings`);
- with `--reload` in each new worker, before it imports the application (`prepare_worker`).

This package is not dropped, because `graceful_shutdown` holds state. Code that is never dropped must not hold a
reference to a module that is dropped: it would use an outdated copy. The modules of this package, and the hooks in
gunicorn.conf.py, therefore import the rest of the project inside functions, after the fork.

| Private name of gunicorn | Used for |
|---|---|
| `BaseApplication.callable` | the imported application; None makes gunicorn import it again |
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from server import loopback, versions

if TYPE_CHECKING:
    from settings import Settings

log = logging.getLogger("gunicorn.error")

_PACKAGE = Path(__file__).resolve().parent


def import_settings() -> Settings:
    """Import the project's modules again, and read and check the settings.

    If they are wrong, the first start ends with exit status 2 and the explanation on standard error. Later the
    explanation is logged, and the previous modules, with the previous settings, stay in use. An unsupported version of
    a package ends the start, and also a reload, with exit status 2.
    """
    before = _drop_project_modules()
    import environment
    import settings
    from auth.access_tokens import AccessTokens

    try:
        versions.require_supported()
        current = environment.get_settings()
        current.check_signing_key()
        AccessTokens(current)
        if "environment" in before:
            loopback.check_reload(before["environment"].get_settings(), current)
        return current
    except environment.UnsupportedVersion as error:
        # Not recoverable: new workers import the package from disk.
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    except settings.SettingsError as error:
        if "environment" not in before:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(2) from None
        log.error("The previous settings stay in use: %s", error)
    _drop_project_modules()
    sys.modules.update(before)
    return cast("Settings", before["environment"].get_settings())


def prepare_worker(worker: Any) -> None:
    """With `--reload`, make a new worker import the project's modules again."""
    if worker.cfg.reload:
        # import_settings() handles wrong settings itself. Any other error is raised again when the application is
        # imported; see Worker.load_wsgi.
        with suppress(Exception):
            import_settings()
        worker.app.callable = None


def forget_application(arbiter: Any) -> None:
    """Make new workers import the application again after SIGHUP.

    Only needed with `--preload`, where the master has imported it. The new workers import it themselves, so they share
    less memory.
    """
    arbiter.app.callable = None


def _drop_project_modules() -> dict[str, ModuleType]:
    """Remove the project's modules, except this package, from `sys.modules`.

    :returns: the removed modules by name.
    """
    files = _PACKAGE.parent.iterdir()
    project = {path.stem for path in files if path.suffix == ".py" or (path / "__init__.py").exists()} - {_PACKAGE.name}
    names = [name for name in sys.modules if name.partition(".")[0] in project]
    return {name: sys.modules.pop(name) for name in names}
