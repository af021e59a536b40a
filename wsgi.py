"""The WSGI application: run `gunicorn wsgi:app`, which reads gunicorn.conf.py."""

from api import create_app

app = create_app()
