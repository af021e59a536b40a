"""The snapshot `docs/openapi.json`: its text, its differences from the current document, and the version rule."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from api import create_app
from dev.openapi.compare import breaking_changes
from dev.openapi.schemas import shown
from settings import Settings
from web.openapi import current_document

PROJECT = Path(__file__).resolve().parents[2]
SNAPSHOT = PROJECT / "docs" / "openapi.json"
CHANGELOG = PROJECT / "CHANGELOG.md"

_RELEASE = re.compile(r"^## \[(\d+)\.(\d+)\.(\d+)\]", re.MULTILINE)


def current_text() -> str:
    """The text of the snapshot of the current code: the document of a service in production with default settings."""
    # Unlike Settings(), this reads neither the environment nor `.env`. No request is served, so nothing is signed.
    settings = Settings.model_construct(secret_key=SecretStr("no request is signed with this key"))
    application = create_app(settings)
    with application.app_context():
        return text_of(json.loads(current_document()))


def text_of(document: dict[str, Any]) -> str:
    """A document as the snapshot has it."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def last_release(changelog: str) -> tuple[int, int, int] | None:
    """The version of the first heading `## [x.y.z]` of a changelog; None if nothing was released."""
    found = _RELEASE.search(changelog)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def forbidden_changes(
    before: dict[str, Any], after: dict[str, Any], released: tuple[int, int, int] | None
) -> list[str]:
    """The breaking changes between two documents that the version of the second one does not allow.

    :param released: the last released version. Nothing is forbidden before the first release.
    :returns: sentences; empty if `after` has a greater minor version than `released`; from 1.0, a greater major one.
    """
    major, minor, _ = map(int, after["info"]["version"].split("."))
    if released is None or _breaking_part(major, minor) > _breaking_part(*released[:2]):
        return []
    return breaking_changes(before, after)


def next_breaking_version(released: tuple[int, int, int]) -> str:
    """The lowest version that may have breaking changes."""
    major, minor, _ = released
    return f"{major + 1}.0.0" if major else f"0.{minor + 1}.0"


def _breaking_part(major: int, minor: int) -> tuple[int, int]:
    return (major, 0) if major else (0, minor)


def differences(before: Any, after: Any, at: tuple[str, ...] = ()) -> Iterator[str]:
    """Describe each difference between two documents in one sentence, breaking or not."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if at == ("paths",):
                # Name each operation of a path that is new or was removed.
                yield from differences(before.get(key, {}), after.get(key, {}), (*at, key))
            elif key not in after:
                yield f"{_place((*at, key))} was removed."
            elif key not in before:
                yield f"{_place((*at, key))} is new."
            else:
                yield from differences(before[key], after[key], (*at, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, values in enumerate(zip(before, after, strict=True)):
            yield from differences(*values, (*at, str(number)))
    elif isinstance(before, list) and isinstance(after, list):
        yield from (f"{_place(at)}: {shown(each)} was removed." for each in before if each not in after)
        yield from (f"{_place(at)}: {shown(each)} is new." for each in after if each not in before)
    elif before != after:
        yield f"{_place(at)} was {shown(before)}, is now {shown(after)}."


def _place(at: tuple[str, ...]) -> str:
    if at[0] == "paths" and len(at) > 2:
        operation = f"{at[2].upper()} {at[1]}"
        return f"{operation}: {'.'.join(at[3:])}" if at[3:] else operation
    return ".".join(at)
