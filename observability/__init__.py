"""Metrics and logging."""

# The versions of prometheus-client whose private API was checked. To support another one: check the list in
# observability/metrics_files.py, run `make test`, then add the version here.
PROMETHEUS_VERSIONS = ("0.26.0",)
