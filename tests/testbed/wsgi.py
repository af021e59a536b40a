"""The WSGI application with the testbed: run `gunicorn tests.testbed.wsgi:app`."""

from tests.testbed.app import create_app

app = create_app()
