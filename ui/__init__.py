"""Pages for browsers: dashboard, explorer, imports, diagnostics, accounts. docs/ui.md describes them.

The pages contain no data: their scripts call the routes of the API, as every client does. To remove the pages,
delete this folder, its tests and the line `"ui"` in `routes/__init__.py`.
"""

from ui import forms, pages, session  # noqa: F401
from ui.blueprint import blueprint

__all__ = ["blueprint"]
