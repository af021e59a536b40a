# The first Python here that Fieldbook runs on; another: make run PYTHON=/path/to/python3.12
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	if "$$candidate" -c '$(SUPPORTED)' 2>/dev/null; then echo "$$candidate"; break; fi; done)
NODES ?= 1

ifneq ($(origin PYTHON),file)
ifneq ($(shell "$(PYTHON)" --version 2>&1),$(shell .venv/bin/python --version 2>&1))
# One was asked for, and .venv has another: make it anew (or refuse).
.PHONY: .venv/ready
endif
endif

.DEFAULT_GOAL := help
.PHONY: help run node stop test chaos bench bench-scale bench-compare lint format clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -e 's/:.*## /: /' | awk -F': ' '{printf "  make %-13s %s\n", $$1, $$2}'

run: .venv/ready ## Cassandra, sample rows and the service, until Ctrl-C (PORT=8001 for another port)
	@.venv/bin/python -m dev.local_cassandra.run

node: .venv/ready ## just Cassandra, in the background (NODES=3 for a ring on 127.0.0.1 to 127.0.0.3)
	@.venv/bin/python -m dev.local_cassandra start --nodes $(NODES)

stop: ## stop what make run or make node started
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m dev.local_cassandra stop; else echo "Nothing runs: there is no .venv."; fi

test: .venv/ready ## all tests, on a Cassandra of their own
	.venv/bin/python -m pytest

chaos: .venv/ready ## faults under load on three nodes, and every row checked (SHORT=1 for the short form)
	.venv/bin/python -m tests.chaos $(if $(SHORT),--short)

bench: .venv/bench-ready ## what a request and a row cost, beside the driver, FastAPI and Flask (SHORT=1 for the short form)
	.venv/bin/python -m dev.bench $(if $(SHORT),--short)

bench-scale: .venv/bench-ready ## how that changes with rows, connections, workers and nodes
	.venv/bin/python -m dev.bench scale $(if $(SHORT),--short)

bench-compare: .venv/bench-ready ## the service as it is against a revision (REF=main~5)
	.venv/bin/python -m dev.bench compare $(if $(SHORT),--short) $(REF)

lint: .venv/ready ## ruff and mypy
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

format: .venv/ready ## let ruff put the code in order
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

clean: stop ## stop Cassandra; delete its data, the sample rows with it, and the virtual environment
	rm -rf .venv .fieldbook .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made last, so that an interrupted installation is begun again.
.venv/ready: requirements.txt requirements-dev.txt
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "Fieldbook needs Python 3.11, 3.12 or 3.13 (the Cassandra driver has wheels for these)."; \
		echo "Found: $$("$(or $(PYTHON),python3)" --version 2>&1). Install one, or name it: make run PYTHON=/path/to/python3.12"; \
		exit 1; }
	@"$(PYTHON)" -m venv --clear .venv || { \
		echo "Python could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing the pinned dependencies into .venv (about 130 MB; the first time takes a minute or two) ..."
	@.venv/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.txt -r requirements-dev.txt
	@touch $@

# The contenders of the benchmark and the plot, which nothing else needs.
.venv/bench-ready: .venv/ready requirements-bench.txt
	@echo "Installing what the benchmark needs into .venv ..."
	@.venv/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.txt -r requirements-bench.txt
	@.venv/bin/python -m pip check
	@touch $@
