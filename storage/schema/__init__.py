"""The schema of a keyspace: what the migrations make of it, and what is there."""
