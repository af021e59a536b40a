"""storage/schema/description.py without a server: values that servers write differently, and notes about indexes."""

from __future__ import annotations

import pytest

from storage.schema.description import _policy, _short, compare, read


@pytest.mark.parametrize(
    ("stored", "same"),
    [
        ("99p", "99p"),
        ("99.0PERCENTILE", "99p"),
        ("50.00ms", "50ms"),
        ("50.50ms", "50.50ms"),
        ("NONE", "none"),
        ("MIN(99p,50ms)", "min(99p,50ms)"),
    ],
)
def test_speculative_retry_policies_of_scylladb_and_cassandra_are_equal(stored: str, same: str) -> None:
    assert _policy(stored) == same


def test_class_names_are_compared_without_their_package() -> None:
    assert _short("org.apache.cassandra.db.compaction.SizeTieredCompactionStrategy") == "SizeTieredCompactionStrategy"
    assert [_short(value) for value in ("0.5", "a.b", "LZ4Compressor", "")] == ["0.5", "a.b", "LZ4Compressor", ""]


def test_note_about_a_custom_index_has_its_class_and_options() -> None:
    index = {"kind": "CUSTOM", "class_name": "StorageAttachedIndex", "target": "name", "case_sensitive": "false"}
    table = {
        "columns": {"name": "text"},
        "partition_key": ["id"],
        "clustering_key": [],
        "indexes": {"by_name": index},
        "options": {},
    }
    expected = {"tables": {"birds": table}, "types": {}, "views": {}, "optional": ["table birds: index by_name"]}
    found = {"tables": {"birds": table | {"indexes": {}}}, "types": {}, "views": {}}
    (note,) = compare(expected, found).notes
    assert note.partition("To create it: ")[2] == (
        "CREATE CUSTOM INDEX IF NOT EXISTS by_name ON birds (name) USING 'StorageAttachedIndex' "
        "WITH OPTIONS = {'case_sensitive': 'false'};"
    )


def test_every_table_asks_another_replica_after_50_ms() -> None:
    """docs/faults.md relies on it: reads must not wait for a silent replica after a fault."""
    tables = read()["tables"]
    assert {name: table["options"].get("speculative_retry") for name, table in tables.items()} == dict.fromkeys(
        tables, "50ms"
    )
