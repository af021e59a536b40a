"""The tables: one module each, with its CQL statements and the functions that run them.

A function that runs a statement takes the session first and the query options last.
"""

from storage.cql import prepared_cache

__all__ = ["prepared_cache"]
