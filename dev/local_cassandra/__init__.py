"""A real Cassandra for development and tests: its jars come from Maven Central, its Java from a wheel.

The service never imports this package. `python -m dev.local_cassandra` starts and stops nodes. `make run` calls
`python -m dev.local_cassandra.run`.
"""
