"""The WSGI application for gunicorn: run `gunicorn wsgi:app`, which reads gunicorn.conf.py in this directory."""

from api import create_app

app = create_app()
