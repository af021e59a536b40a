"""The WSGI application with the testbed: run `gunicorn tests.testbed.wsgi:app`."""

import os

from tests.testbed.app import create_app
from web import redis_counters

# On a busy machine Redis can answer later than a request waits for it, and the request is counted in memory then.
# Tests of exact counts wait longer.
if seconds := os.environ.get("TEST_REDIS_TIMEOUT"):
    redis_counters._TIMEOUT = redis_counters._CONNECTION_TIMEOUT = float(seconds)

app = create_app()
