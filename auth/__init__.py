"""Accounts, passwords and tokens. This package knows nothing of HTTP: `web/access.py` applies it to requests."""
