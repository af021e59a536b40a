"""Probes of the running service.

To remove them, delete this folder and its line in `routes/__init__.py`.
"""
