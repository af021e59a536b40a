"""The tables of the testbed."""
