"""Fixtures of the tests of sign-in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.functional.auth.accounts import WITHOUT_LIMITS
from tests.support import Service, service


@pytest.fixture(scope="package")
def running(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service with two workers that requires sign-in, without limits of attempts."""
    with service(environment | WITHOUT_LIMITS, tmp_path_factory.mktemp("auth") / "log") as running:
        yield running
