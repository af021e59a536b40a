"""The environment: reads the settings from it and from `.env`.

This is the only module that reads the environment. `ENV_FILE` gives the path of another file than `.env`. It also
checks the versions of packages whose private API the service uses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from settings import PROJECT, Settings, SettingsError


class UnsupportedVersion(SettingsError):
    """An installed package has a version that the service does not support."""


# Variables of earlier versions, each with what to set instead.
_REMOVED = {
    "GUNICORN_THREADS": "Set MAX_REQUESTS_IN_FLIGHT instead; the number of threads follows from it and "
    "MAX_REQUESTS_QUEUED."
}


ignored_variables: list[str] = []  # a warning about each environment variable that get_settings() ignored


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process.

    The first call prints a warning for each environment variable that looks like a mistake, and removes the variable
    from the environment of this process.

    :raises SettingsError: variables are wrong or missing; the message names each of them.
    """
    env_file = _env_file()
    if os.environ.get("ENV_FILE") and (not env_file.exists() or env_file.is_dir()):
        raise SettingsError(f"ENV_FILE: {env_file} is not a file; give the path of a file such as .env")
    try:
        names = list(dotenv_values(env_file))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} can't be read: {error}") from None
    if mistakes := _mistaken_names(names):
        raise SettingsError("\n".join(f"{env_file}: {mistake}" for mistake in mistakes.values()))
    # The environment also has variables of other programs, so these names don't prevent the start.
    for name, mistake in _mistaken_names(os.environ).items():
        ignored_variables.append(f"{mistake} The service ignores this environment variable.")
        print(f"Warning: {ignored_variables[-1]}", file=sys.stderr)
        # Child processes would repeat the warning.
        del os.environ[name]
    try:
        return Settings(_env_file=env_file)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def default_to_development() -> None:
    """Set `APP_ENV=development` for this process and those that it starts, unless the environment or `.env` sets it.

    For the commands of a developer, such as `make run`. Call this before the first `get_settings()`.
    """
    sources: list[Mapping[str, str | None]] = [os.environ]
    # get_settings() reports a file that can't be read.
    with suppress(OSError, UnicodeDecodeError):
        sources.append(dotenv_values(_env_file()))
    if not any(value and name.upper() == "APP_ENV" for source in sources for name, value in source.items()):
        os.environ["APP_ENV"] = "development"


def _env_file() -> Path:
    return Path(os.environ.get("ENV_FILE") or PROJECT / ".env")


def _mistaken_names(names: Iterable[str]) -> dict[str, str]:
    """The names that were removed or are nearly the name of a variable, each with a sentence about it."""
    known = [field.upper() for field in Settings.model_fields]
    mistakes = {}
    for name in names:
        if name.upper() in _REMOVED:
            mistakes[name] = f"{name} was removed. {_REMOVED[name.upper()]}"
        elif name.upper() not in known and (near := get_close_matches(name.upper(), known, n=1, cutoff=0.9)):
            mistakes[name] = f"{name} is unknown. Did you mean {near[0]}?"
    return mistakes


def _explain(error: ValidationError) -> str:
    lines = ["The settings (environment or .env) are wrong:"]
    for problem in error.errors():
        # pydantic adds this prefix to the messages of our own validators.
        message = problem["msg"].removeprefix("Value error, ")
        name = f"{str(problem['loc'][0]).upper()}: " if problem["loc"] else ""
        lines.append(f"  {name}{message}")
    return "\n".join(lines)


_METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


def metrics_directory() -> str | None:
    """The directory in which workers share their metrics; None outside gunicorn."""
    return os.environ.get(_METRICS_DIRECTORY)


def set_metrics_directory(path: str) -> None:
    """Set `PROMETHEUS_MULTIPROC_DIR`, which prometheus-client reads when it is imported."""
    os.environ[_METRICS_DIRECTORY] = path


def require_version(package: str, supported: tuple[str, ...], used_by: str) -> None:
    """Refuse to start with a version of a package whose private API was not checked.

    :param package: name of the installed distribution.
    :param supported: the versions that the code was written for.
    :param used_by: path of the file whose docstring says how to support another version.
    :raises UnsupportedVersion: another version is installed.
    """
    installed = metadata.version(package)
    if installed not in supported:
        raise UnsupportedVersion(
            f"{package} {installed} is installed, but the service uses private API of {package} and supports only "
            f"{', '.join(supported)}. Run `pip install -r requirements.txt`. To use {package} {installed}, follow the "
            f"instructions at the top of {used_by}."
        )


def settings_or_exit() -> Settings:
    """The settings of this process; exit with status 2 and a message if they are wrong."""
    try:
        return get_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
