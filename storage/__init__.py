"""Access to Cassandra. No module here imports Flask."""

# The versions of cassandra-driver whose private API was checked; storage/cql/driver.py says how to add one.
DRIVER_VERSIONS = ("3.30.1",)
