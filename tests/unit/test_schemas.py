"""Validation of email addresses in the schemas."""

from __future__ import annotations

import pytest
from email_validator import EmailNotValidError, validate_email
from pydantic import TypeAdapter, ValidationError

from schemas.fields import Email

LOCAL_PARTS = [
    "a",
    "Postmaster",
    "Ada.B",
    "a+b_c-d",
    "a..b",
    ".a",
    "a.",
    "é",
    '"a b"',
    "a b",
    "a\n",
    "a" * 60,
    "a" * 64,
    "a" * 65,
    "",
]
DOMAINS = [
    "example.org",
    "EXAMPLE.Org",
    "é.org",
    "localhost",
    "a.test",
    "a..b",
    "-a.org",
    "a",
    "[1.2.3.4]",
    "a.org\n",
    "",
]
# An internationalized domain name in Punycode. It is longer when decoded.
IDN = ".".join(["xn--l8j" + "aaa" * 10] * 2) + ".org"
LONG_DOMAIN = ".".join(["b" * 61] * 3) + ".org"


@pytest.mark.parametrize("local", LOCAL_PARTS)
def test_email_validation_agrees_with_the_library(local: str) -> None:
    """The fast path for plain addresses gives the same results as email-validator.

    Each domain is tested twice, because Email caches domains.
    """
    for domain in [*DOMAINS, LONG_DOMAIN, IDN, *DOMAINS]:
        address = f"{local}@{domain}"
        expected: str | None
        try:
            expected = validate_email(address, check_deliverability=False).normalized
        except EmailNotValidError:
            expected = None
        actual: str | None
        try:
            actual = TypeAdapter(Email).validate_python(address)
        except ValidationError:
            actual = None
        assert actual == expected, address
