"""Sample rows of the testbed, one module per table."""
