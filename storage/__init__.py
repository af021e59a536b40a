"""All access to Cassandra. No module here imports Flask."""
