"""Sample rows of a new keyspace: one module per table, found by `db_initialize.py`.

Each module has `INSERT`, the statement that writes a row, and `rows()`, a generator of its values.
"""
