"""What all requests share. `hooks.py` lists the steps of a request in the order in which they run."""
