# The image of the service. docs/deployment.md explains how to build, pin and run it.
FROM python:3.11-slim-trixie AS build

WORKDIR /srv/fieldbook
COPY requirements.txt .
# Without pip in the environment, and with wheels only: the image needs no compiler.
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: -r requirements.txt
# .dockerignore decides which files are copied.
COPY . .
# Readable for the user below, whatever the umask of the checkout was.
RUN chmod -R a+rX .

FROM python:3.11-slim-trixie
LABEL org.opencontainers.image.title="Fieldbook" \
      org.opencontainers.image.description="REST service on Flask and Apache Cassandra" \
      org.opencontainers.image.licenses="MIT"

COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/fieldbook /srv/fieldbook
WORKDIR /srv/fieldbook

# Other containers and the host's published port can only reach 0.0.0.0. SECRET_KEY has no default on purpose.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000
EXPOSE 8000

# A number, so that Kubernetes can check runAsNonRoot. The service writes to /tmp only.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "\
import http.client, os; \
probe = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); \
probe.request('GET', '/health/live'); \
exit(probe.getresponse().status != 200)"]
CMD ["gunicorn", "wsgi:app"]
