"""The code behind gunicorn.conf.py; the only package that uses private API of gunicorn.

The docstring of each module that uses private API lists the names. They can change in any release, so the service
refuses to start with a version of gunicorn that is not in `GUNICORN_VERSIONS`.

The master imports this package once and keeps it: changed code in it takes effect after a restart, not after SIGHUP.
For the same reason its modules import the rest of the project inside functions (`server.reload` says why).
"""

# To support another version: check the private API that the modules list, run `make test`, then add the version here.
GUNICORN_VERSIONS = ("27.0.1",)
