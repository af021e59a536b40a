"""A real Cassandra for development and tests, from Maven Central and a Java in a wheel.

The service never imports this package. `python -m dev.local_cassandra` starts and stops nodes;
`python -m dev.local_cassandra.run` is what `make run` calls.
"""
