"""Everything that knows Cassandra. Nothing here knows Flask."""
