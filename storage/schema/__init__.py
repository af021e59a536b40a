"""The schema of a keyspace: the runner of the migrations, its history, and the comparison with `schema.json`.

| module | |
|---|---|
| `files` | reads `storage/migrations/`: files, statements, checksums |
| `effects` | tells from `system_schema` whether an interrupted statement took effect |
| `lock` | lets one runner at a time change the schema, across instances and coordinators |
| `history` | the table `schema_migrations`: what was applied, and how far an interrupted migration got |
| `runner` | `upgrade()` applies the pending migrations |
| `description` | describes a keyspace, and compares it with `storage/schema.json` |
| `status` | the migrations that a running service still needs |
"""

from __future__ import annotations


class SchemaError(Exception):
    """A schema command can't continue. The message says what the user must do."""
