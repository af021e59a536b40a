"""Rows as bytes: the format of the chunks of imports."""

from __future__ import annotations

import pytest

from storage.cql.bulk_write import pack_rows, unpack_rows


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[b"a", b"b"]],
        [[None, b""], [b"", None], [None, None]],
        [[b"\xff\xff\xff\xff", b"\x00" * 4], [b"x" * 300_000, b","]],
    ],
)
def test_packed_rows_are_the_same_after_unpacking(rows: list[list[bytes | None]]) -> None:
    """Null, an empty value, and values that look like sizes stay different."""
    packed = unpack_rows(pack_rows(("genus", "größe"), rows))
    assert packed.columns == ("genus", "größe")
    assert packed.rows == rows


def test_rows_in_the_format_of_a_newer_version_are_rejected() -> None:
    data = pack_rows(("genus",), [[b"a"]])
    with pytest.raises(ValueError, match="rows of format 2 are not supported"):
        unpack_rows(b"\x02" + data[1:])
