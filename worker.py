"""The application of job workers: run `celery --app worker worker`, and `celery --app worker beat` once."""

import sys

from environment import get_settings
from server import metrics_directory
from settings import SettingsError

# prometheus-client uses this directory from its import on.
metrics_directory.create()

from jobs.imports.kind import kinds_of_jobs  # noqa: E402
from jobs.worker_process import job_worker  # noqa: E402
from routes import RESOURCES  # noqa: E402

try:
    app = job_worker(get_settings(), kinds_of_jobs(RESOURCES))
except SettingsError as error:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(2) from None
