# Fieldbook is tested on Python 3.11 to 3.14. make tries a newer Python with a warning, and rejects an older one.
# To choose one: make run PYTHON=/path/to/python3.12
TESTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
USABLE := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell \
	for name in python3 python3.14 python3.13 python3.12 python3.11; do \
		if "$$name" -c '$(TESTED)' 2>/dev/null; then echo "$$name"; exit; fi; done; \
	for name in python3 python3.17 python3.16 python3.15; do \
		if "$$name" -c '$(USABLE)' 2>/dev/null; then echo "$$name"; exit; fi; done)

# uv installs the same pinned versions faster, so it is used where it is installed.
UV := $(shell command -v uv)
ifdef UV
# --seed adds pip, so that a later make without uv can use this .venv.
CREATE_VENV = "$(UV)" venv --quiet --clear --seed --python "$(PYTHON)" .venv
INSTALL = "$(UV)" pip install --quiet --python .venv/bin/python
CHECK_INSTALLED = "$(UV)" pip check --python .venv/bin/python
else
CREATE_VENV = "$(PYTHON)" -m venv --clear .venv
INSTALL = .venv/bin/python -m pip install --disable-pip-version-check --quiet
CHECK_INSTALLED = .venv/bin/python -m pip check
endif

ifneq ($(origin PYTHON),file)
ifneq ($(shell "$(PYTHON)" --version 2>&1),$(shell [ ! -x .venv/bin/python ] || .venv/bin/python --version))
# PYTHON names another version than .venv has: create .venv again.
.PHONY: .venv/ready
endif
endif

NODES ?= 1
CASSANDRA = $(if $(TEST_CASSANDRA_HOSTS),at $(TEST_CASSANDRA_HOSTS),$(or $(CASSANDRA_VERSION),$(shell \
	sed -n 's/^DEFAULT_VERSION = "\(.*\)"$$/\1/p' dev/local_cassandra/jars.py)))
PYTEST = .venv/bin/python $(if $(COVERAGE),-m coverage run )-m pytest

# $(call phase,NAME,COMMAND) runs the command, prints how long it took, and fails if the command failed.
define phase
@echo "--- $(1)"; begin=$$(date +%s); $(2); status=$$?; seconds=$$(($$(date +%s) - begin)); \
	if [ $$status -eq 0 ]; then echo "$(1): $$seconds s"; else echo "$(1): failed after $$seconds s"; fi; exit $$status
endef

.DEFAULT_GOAL := help
.PHONY: help run node stop test test-long test-cassandra-4 test-without-samples integration chaos bench bench-scale bench-imports bench-compare \
	screenshots schema openapi lint lint-deployment format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  One test file, or one test:"
	@echo "  .venv/bin/python -m pytest tests/functional/test_service.py -k health"

run: .venv/ready ## start Cassandra, sample data, the service and a job worker; Ctrl-C stops them (PORT=8001, RELOAD=1: restart on changes)
	@.venv/bin/python -m dev.local_cassandra.run $(if $(RELOAD),--reload)

node: .venv/ready ## start only Cassandra, in the background (NODES=3: a cluster on 127.0.0.1 to 127.0.0.3)
	@.venv/bin/python -m dev.local_cassandra start --nodes $(NODES)

stop: ## stop everything that make run and make node started
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m dev.local_cassandra stop; \
		else echo "Nothing is running: there is no .venv."; fi

comma := ,
# Without redis-server, the tests of this module are skipped. The other files are those that pyproject.toml omits.
OMITTED = $(if $(shell command -v redis-server),,'--omit=tests/*$(comma)dev/*$(comma)gunicorn.conf.py$(comma)wsgi.py$(comma)worker.py$(comma)commands/imports.py$(comma)commands/jobs.py$(comma)web/redis_counters.py')

test: .venv/test-ready ## run the unit and functional tests on their own Cassandra (SHORT=1: without slow tests; COVERAGE=1: line coverage)
	$(if $(COVERAGE),@.venv/bin/python -m coverage erase)
	$(call phase,unit tests,$(PYTEST) tests/unit -n 2)
	$(call phase,functional tests on Cassandra $(CASSANDRA),$(PYTEST) tests/functional -n 2 --dist loadfile --no-loadscope-reorder \
		-m "not alone$(if $(SHORT), and not slow)")
	$(call phase,functional tests that run alone,$(PYTEST) tests/functional -m "alone$(if $(SHORT), and not slow)")
	$(if $(COVERAGE),@.venv/bin/python -m coverage combine --quiet && .venv/bin/python -m coverage report $(OMITTED))

# The test files that cover differences between 4.1 and 5.0, in migrations, types, indexes, streams, batches and transactions.
test-cassandra-4: export CASSANDRA_VERSION = 4.1.10
test-cassandra-4: .venv/test-ready ## run a part of the tests on Cassandra 4.1 (all of them: make test CASSANDRA_VERSION=4.1.10)
	$(call phase,functional tests on Cassandra $(CASSANDRA),$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" \
		$(foreach name,initialize types observers migrations,tests/functional/test_$(name).py))

test-long: .venv/test-ready ## run the long form of the tests that kill job workers (8 minutes)
	TEST_LONG=1 $(PYTEST) tests/functional/test_job_faults.py

test-without-samples: .venv/test-ready ## run lint and a part of the tests in a copy without the sample resources
	@.venv/bin/python -m tests.without_samples

integration: .venv/test-ready ## run `concurrency` and `smoke` of tests/integration against gunicorn with four workers
	$(call phase,integration tests,.venv/bin/python -m tests.integration.local)

chaos: .venv/test-ready ## inject faults under load on three nodes, then check every row (SHORT=1: short form)
	.venv/bin/python -m tests.chaos $(if $(SHORT),--short)

bench: .venv/bench-ready ## compare the cost of a request and a row with the driver, FastAPI and Flask (SHORT=1: short form)
	.venv/bin/python -m dev.bench $(if $(SHORT),--short)

bench-scale: .venv/bench-ready ## measure how that cost changes with rows, connections, workers and nodes (SHORT=1: short form)
	.venv/bin/python -m dev.bench scale $(if $(SHORT),--short)

bench-imports: .venv/bench-ready ## measure the memory of the service and a job worker during an import of 1 GB (SHORT=1: 10 MB)
	.venv/bin/python -m dev.bench imports $(if $(SHORT),--short)

bench-compare: .venv/bench-ready ## compare the cost of the working tree with that of a Git revision (REF=main~5)
	.venv/bin/python -m dev.bench compare $(if $(SHORT),--short) $(REF)

screenshots: .venv/test-ready ## take the screenshots of the pages in docs/images/ui with Chromium (7 minutes)
	.venv/bin/python -m tests.screenshots

schema: .venv/ready ## write storage/schema.json: the schema that the migrations create
	@.venv/bin/python -m dev.schema

openapi: .venv/ready ## write docs/openapi.json; refuse a change that breaks clients, unless VERSION in api.py allows it
	.venv/bin/python -m dev.openapi

lint: .venv/test-ready lint-deployment ## check code (ruff, mypy), docs/openapi.json, and the files for GitHub and for deployment
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/python -m dev.openapi --check
	.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.github-issue-forms \
		$(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	.venv/bin/zizmor --offline --quiet .github

# The commands of a unit must exist, so systemd-analyze gets copies with the path of a link to this checkout.
lint-deployment: .venv/test-ready
	.venv/bin/python -m tests.nginx
	.venv/bin/gixy deploy/nginx/nginx.conf
	.venv/bin/hadolint Dockerfile
	.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	.venv/bin/python -m dev.kubernetes deploy/k8s/*.yaml
	@if ! command -v systemd-analyze >/dev/null; then echo "The systemd units are not checked: there is no systemd-analyze."; \
	else units=$$(mktemp -d) && trap 'rm -r "$$units"' EXIT && ln -s "$(CURDIR)" "$$units/project" && \
		cp deploy/systemd/* "$$units" && sed -i "s|/srv/fieldbook|$$units/project|" "$$units"/fieldbook* && \
		echo "systemd-analyze verify deploy/systemd/*" && \
		systemd-analyze verify --man=no --recursive-errors=no "$$units"/fieldbook*; fi

format: .venv/ready ## format the code and apply ruff's automatic fixes
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

clean: stop ## stop Cassandra, then delete its data, the virtual environment and all caches
	rm -rf .venv .fieldbook .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The file .venv/ready is written last, so that an interrupted installation starts again.
.venv/ready: requirements.txt requirements-dev.txt
	@"$(PYTHON)" -c '$(USABLE)' 2>/dev/null || { \
		echo "Fieldbook needs Python 3.11, 3.12, 3.13 or 3.14. Found: $$("$(or $(PYTHON),python3)" --version 2>&1)."; \
		echo "Install one of these versions, or name one: make run PYTHON=/path/to/python3.12"; \
		exit 1; }
	@"$(PYTHON)" -c '$(TESTED)' || { \
		echo "Warning: Fieldbook is not tested on $$("$(PYTHON)" --version 2>&1), only on Python 3.11 to 3.14."; \
		echo "If the installation fails, name another: make run PYTHON=/path/to/python3.14"; }
	@$(CREATE_VENV) || { \
		echo "Python could not create a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing the pinned dependencies into .venv (170 MB; about a minute, later from the cache) ..."
	@$(INSTALL) -r requirements.txt -r requirements-dev.txt
	@touch $@

# The tools that only tests and lint need.
.venv/test-ready: .venv/ready requirements-test.txt
	@echo "Installing the tools of tests and lint into .venv (650 MB) ..."
	@$(INSTALL) -r requirements.txt -r requirements-dev.txt -r requirements-test.txt
	@touch $@

# The packages that only the benchmark needs: its baselines.
.venv/bench-ready: .venv/test-ready requirements-bench.txt
	@echo "Installing the packages of the benchmark into .venv ..."
	@$(INSTALL) -r requirements.txt -r requirements-test.txt -r requirements-bench.txt
	@$(CHECK_INSTALLED)
	@touch $@
