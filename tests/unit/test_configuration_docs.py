"""settings.py, .env.example and docs/configuration.md have the same variables and defaults."""

from __future__ import annotations

import re

from settings import Settings
from tests.support import PROJECT


def defaults_of_settings() -> dict[str, str]:
    """Return the default of each variable in the notation of .env; an empty string for None."""

    def as_text(value: object) -> str:
        match value:
            case None:
                return ""
            case bool():
                return str(value).lower()
            case float():
                return f"{value:g}"
            case tuple():
                return ",".join(value)
        return str(value)

    return {name.upper(): as_text(field.default) for name, field in Settings.model_fields.items()}


def test_env_example_has_every_variable_with_its_default() -> None:
    """A variable may be commented out, if setting it to its default has an effect.

    APP_ENV is empty, so that `make run` uses development with an unchanged copy of the file.
    """
    text = (PROJECT / ".env.example").read_text()
    assert dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", text, re.MULTILINE)) == defaults_of_settings() | {"APP_ENV": ""}


def test_configuration_page_has_every_variable_once_with_its_default() -> None:
    text = (PROJECT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    names = [name for name, _ in rows]
    assert len(names) == len(set(names))
    shown = {name: "" if default == "not set" else default.strip("`") for name, default in rows}
    assert shown == defaults_of_settings()
