"""The engine below `db_io`: prepares statements, executes them, and encodes rows.

It has two verbs: `execute` returns one page, `stream` yields all pages.
"""

from storage.cql.execution import Page, bind, execute, execute_batch, execute_concurrently
from storage.cql.options import QueryOptions, WaitTime
from storage.cql.prepared_cache import prepared_cache
from storage.cql.ranges import KeyRange, in_range
from storage.cql.statement import Statement
from storage.cql.streams import Stream, stream
from storage.cql.table import Table

__all__ = [
    "KeyRange",
    "Page",
    "QueryOptions",
    "Statement",
    "Stream",
    "Table",
    "WaitTime",
    "bind",
    "execute",
    "execute_batch",
    "execute_concurrently",
    "in_range",
    "prepared_cache",
    "stream",
]
