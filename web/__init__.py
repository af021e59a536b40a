"""Code that all requests share. `hooks.py` lists the steps of a request in their order."""
