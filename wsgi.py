"""For gunicorn: `gunicorn wsgi:app` reads gunicorn.conf.py beside this file."""

from api import create_app

app = create_app()
