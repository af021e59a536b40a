"""The routes of the testbed."""
