"""`python -m tests.integration`: a command line that tests a deployed service over HTTP.

It knows the routes only from the service's OpenAPI document, so that it covers generated resources too.
"""

import sys
from importlib.util import find_spec

if find_spec("httpx") is None:
    sys.stderr.write("httpx is not installed. Run `make .venv/test-ready` first.\n")
    sys.exit(2)
