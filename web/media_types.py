"""Media types of requests and responses."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
HTML = "text/html"
MULTIPART = "multipart/form-data"
FORM = "application/x-www-form-urlencoded"

# A stream can be sent in each of these formats; the first is the default.
STREAM_TYPES = (JSON, NDJSON, CSV)
