"""All access to Cassandra. No module here imports Flask."""

# The versions of cassandra-driver whose private API was checked; see storage/cql/driver.py.
DRIVER_VERSIONS = ("3.30.1",)
