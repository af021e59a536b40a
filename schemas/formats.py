"""Text forms of CQL values, for JSON bodies, paths, query strings and keys of maps.

Each function returns the Python value of a text. For an invalid text it raises ValueError. The message states the rule
and never contains the client's value. Patterns bound the length of a text before its conversion, because some
conversions take more than linear time. The JSON Schema of a type uses the same pattern, so the patterns use only syntax
that Python and ECMAScript share.
"""

from __future__ import annotations

import binascii
import re
import socket
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from ipaddress import ip_address
from typing import NamedTuple
from uuid import UUID

# Bytes. Cassandra reads a cell as a whole, so larger values belong in files.
MAX_BLOB = 64 * 1024
# Bytes of a blob that is part of a URL.
MAX_KEY = 255
# Digits of a varint, and of a decimal without its leading zeros.
MAX_DIGITS = 1000
# Greatest exponent of a decimal in scientific notation, as in IEEE 754 decimal128. Cassandra stores exponents up to
# 2**31, but many clients fail when they expand them.
MAX_EXPONENT = 6144
# Characters of a decimal: its digits, sign, point, exponent and some leading zeros.
MAX_DECIMAL_TEXT = MAX_DIGITS + 100
MAX_BIGINT = 2**63 - 1

_DATE = r"(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
DATE = re.compile(_DATE)
TIMESTAMP = re.compile(rf"{_DATE}[Tt]{_CLOCK}(?:\.[0-9]{{1,3}})?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])")
TIME = re.compile(rf"({_CLOCK})(?:\.([0-9]{{1,9}}))?")
# Groups: sign, years, months, weeks, days, hours, minutes, seconds, fraction of a second.
DURATION = re.compile(
    r"(-?)P(?=[0-9T])(?:([0-9]{1,10})Y)?(?:([0-9]{1,10})M)?(?:([0-9]{1,10})W)?(?:([0-9]{1,10})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,19})H)?(?:([0-9]{1,19})M)?(?:([0-9]{1,19})(?:\.([0-9]{1,9}))?S)?)?"
)
DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[Ee][+-]?[0-9]{1,4})?")
BIGINT = re.compile(r"-?[0-9]{1,19}")
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")
VARINT = re.compile(rf"-?[0-9]{{1,{MAX_DIGITS}}}")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,400})?(?:[Ee][+-]?[0-9]{1,4})?")
UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
TIMEUUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-1[0-9a-fA-F]{3}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
# The last character before the padding has unused bits. They are zero, so that each value has one text.
BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?")
BASE64URL = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?")


class DurationValue(NamedTuple):
    """A CQL duration. All parts are positive or all are negative.

    :ivar months: -2**31 to 2**31 - 1.
    :ivar days: -2**31 to 2**31 - 1.
    :ivar nanoseconds: -2**63 to 2**63 - 1.
    """

    months: int
    days: int
    nanoseconds: int


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        reason = ", because JSON numbers lose digits" if isinstance(value, (int, float)) else ""
        raise ValueError(f"A {name} must be a string{reason}")
    return value


def _match(pattern: re.Pattern[str], value: object, rule: str) -> re.Match[str]:
    match = pattern.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(rule)
    return match


def timestamp(value: object) -> datetime:
    """An RFC 3339 time with an offset, as an aware time in UTC."""
    if not isinstance(value, str) or not TIMESTAMP.fullmatch(value):
        raise ValueError(_timestamp_rule(value))
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("A timestamp must be an existing date, in the years 0001 to 9999 in UTC") from None


def _timestamp_rule(value: object) -> str:
    if isinstance(value, str):
        if re.match(r".{19}\.[0-9]{4}", value):
            return "A timestamp must have at most three fractional digits, because Cassandra stores milliseconds"
        if value[16:19] == ":60":
            return "A timestamp must not be a leap second, because Cassandra does not store them"
    return "A timestamp must be RFC 3339 text with Z or an offset, for example 2026-11-21T06:50:04.610Z"


def calendar_date(value: object) -> date:
    """A date as YYYY-MM-DD."""
    rule = "A date must be YYYY-MM-DD and exist, for example 2026-11-21"
    text = _match(DATE, value, rule)[0]
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(rule) from None


def time_of_day(value: object) -> str:
    """A time as HH:MM:SS, with up to nine fractional digits.

    The result has no trailing zeros in the fraction.
    """
    rule = "A time must be HH:MM:SS with at most nine fractional digits, for example 08:30:00.5"
    clock, fraction = _match(TIME, value, rule).groups(default="")
    fraction = fraction.rstrip("0")
    return f"{clock}.{fraction}" if fraction else clock


def duration(value: object) -> DurationValue:
    """An ISO 8601 duration, for example P1Y2M3DT4H5M6.5S. A negative duration begins with -P."""
    rule = (
        "A duration must have the form P1Y2M3DT4H5M6.5S (ISO 8601); only seconds have a fraction, of up to nine digits"
    )
    sign, *parts, fraction = _match(DURATION, value, rule).groups(default="")
    years, months, weeks, days, hours, minutes, seconds = (int(part or 0) for part in parts)
    factor = -1 if sign else 1
    result = DurationValue(
        factor * (12 * years + months),
        factor * (7 * weeks + days),
        factor * (((60 * hours + minutes) * 60 + seconds) * 10**9 + int(fraction.ljust(9, "0"))),
    )
    if not all(-(2**31) <= part < 2**31 for part in result[:2]) or not -(2**63) <= result.nanoseconds < 2**63:
        raise ValueError("A duration must have months and days that fit 32 bits, and nanoseconds that fit 64 bits")
    return result


def decimal(value: object) -> Decimal:
    """A decimal number of at most MAX_DIGITS digits."""
    text = _text(value, "decimal")
    if len(text) <= MAX_DECIMAL_TEXT and DECIMAL.fullmatch(text):
        result = Decimal(text)
        if len(result.as_tuple().digits) <= MAX_DIGITS and abs(result.adjusted()) <= MAX_EXPONENT:
            # Cassandra has no negative zero.
            return result if result else result.copy_abs()
    raise ValueError(
        f"A decimal must have the form 21.350 or -1E+5, at most {MAX_DIGITS} digits, and in scientific notation an "
        f"exponent from -{MAX_EXPONENT} to {MAX_EXPONENT}"
    )


def bigint(value: object) -> int:
    """A whole number of 64 bits."""
    rule = f"A bigint must be a whole number from {-MAX_BIGINT - 1} to {MAX_BIGINT}"
    result = int(_match(BIGINT, _text(value, "bigint"), rule)[0])
    if not -MAX_BIGINT - 1 <= result <= MAX_BIGINT:
        raise ValueError(rule)
    return result


def varint(value: object) -> int:
    """A whole number of at most MAX_DIGITS digits."""
    rule = f"A varint must be a whole number of at most {MAX_DIGITS} digits"
    return int(_match(VARINT, _text(value, "varint"), rule)[0])


def whole_number(value: object) -> int:
    """A whole number in decimal notation. int() also accepts 1_0, +5 and spaces."""
    return int(_match(WHOLE_NUMBER, value, "Input should be a whole number")[0])


def boolean(value: object) -> bool:
    """`true` or `false`."""
    if value not in ("true", "false"):
        raise ValueError("Input should be true or false")
    return value == "true"


def number(value: object) -> float:
    """A finite number of 64 bits.

    A whole number that a double does not hold exactly is not valid.
    """
    # bool is a subclass of int.
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = float("inf")
        if abs(result) == float("inf") or result != result:
            raise ValueError("A number must be from -1.7976931348623157e308 to 1.7976931348623157e308")
        if result != value:
            raise ValueError("The whole number has more digits than a double holds")
        return result
    raise ValueError("Input should be a valid number")


def single(value: object) -> float:
    """A finite number that 32 bits hold, so that it reads as it was written.

    0.1 is valid, because the float nearest to it reads as 0.1. 0.123456789 would read as 0.12345679.
    """
    result = number(value)
    try:
        packed = struct.pack(">f", result)
    except OverflowError:
        raise ValueError("A float must be from -3.4028235e38 to 3.4028235e38") from None
    (stored,) = struct.unpack(">f", packed)
    # A float reads as the number with the fewest digits that identifies it: 6 to 9 digits without trailing zeros.
    for digits in range(6, 10):
        shortest = float(f"{stored:.{digits}g}")
        if _same_single(shortest, packed):
            break
    if shortest != result:
        raise ValueError("The number has more digits than a float holds")
    return result


def _same_single(value: float, packed: bytes) -> bool:
    try:
        return struct.pack(">f", value) == packed
    except OverflowError:
        # The greatest float, rounded up to fewer digits, does not fit into 32 bits.
        return False


def number_of_text(value: object) -> int | float:
    """A number in the notation of JSON."""
    text = _match(NUMBER, value, "Input should be a number, for example 21.5 or 1e-3")[0]
    return float(text) if set(text) & set(".eE") else int(text)


def inet(value: object) -> str:
    """An IPv4 or IPv6 address in the form of `inet_ntop`, which responses use too."""
    # An IPv6 address has at most 45 characters, and "%" begins a zone.
    if isinstance(value, str) and len(value) <= 45 and "%" not in value:
        try:
            address = ip_address(value)
            return socket.inet_ntop(socket.AF_INET6 if address.version == 6 else socket.AF_INET, address.packed)
        except ValueError:
            pass
    raise ValueError("An inet must be an IPv4 or IPv6 address, without zone and prefix length")


def blob(value: object) -> bytes:
    """Bytes in standard base64 with padding."""
    return _base64(BASE64, value, "standard base64 with padding")


def blob_url(value: object) -> bytes:
    """Bytes in base64url without padding."""
    return _base64(BASE64URL, value, "base64url without padding")


def short_blob(value: bytes) -> bytes:
    """Bytes that fit into a URL."""
    if not 1 <= len(value) <= MAX_KEY:
        raise ValueError(f"A blob that is part of a URL must have 1 to {MAX_KEY} bytes")
    return value


def _base64(pattern: re.Pattern[str], value: object, name: str) -> bytes:
    if isinstance(value, str) and len(value) <= base64_length(MAX_BLOB) and pattern.fullmatch(value):
        data = binascii.a2b_base64(value.translate(_STANDARD_ALPHABET) + "=" * (-len(value) % 4))
        if len(data) <= MAX_BLOB:
            return data
    raise ValueError(f"A blob must be canonical {name}, of at most {MAX_BLOB} bytes")


_STANDARD_ALPHABET = str.maketrans("-_", "+/")


def base64_length(size: int) -> int:
    """Number of characters of `size` bytes in base64 with padding."""
    return (size + 2) // 3 * 4


def uuid(value: object) -> UUID:
    """A UUID of any version, in the form 8-4-4-4-12."""
    # UUID() also accepts braces, URNs and missing hyphens.
    return UUID(_match(UUID_TEXT, value, "A UUID must have the form 0192d3f5-3b1a-7c6e-8f21-5a0c9d7e4b13")[0])


def timeuuid(value: object) -> UUID:
    """A UUID of version 1, in the form 8-4-4-4-12."""
    rule = "A timeuuid must be a UUID of version 1, for example 8f2b7d10-c6a4-11f0-9a3e-325096b39f47"
    return UUID(_match(TIMEUUID, value, rule)[0])
