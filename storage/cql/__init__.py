"""The engine below `db_io`: prepares statements, executes them, and encodes rows.

It has two verbs: `execute` returns one page, `stream` yields all pages.
"""

from storage.cql.execution import Page, bind, execute, execute_batch, execute_concurrently
from storage.cql.options import QueryOptions, WaitTime
from storage.cql.prepared_cache import prepared_cache
from storage.cql.statement import Statement
from storage.cql.streams import Stream, stream

__all__ = [
    "Page",
    "QueryOptions",
    "Statement",
    "Stream",
    "WaitTime",
    "bind",
    "execute",
    "execute_batch",
    "execute_concurrently",
    "prepared_cache",
    "stream",
]
