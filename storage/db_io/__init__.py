"""All CQL of the service: one module per table, with statements and their functions.

Each function takes the session first and the query options last.
"""

from storage.cql import prepared_cache

__all__ = ["prepared_cache"]
