"""Imports: from the bytes of a file to rows of a table."""
