# Every task in a line: `make help`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
UNIT := tests --ignore=tests/live --ignore=tests/browser --ignore=tests/notebooks --ignore=tests/faults
.DEFAULT_GOAL := help
.PHONY: help install ui dev check format test unit live browser notebooks faults-short faults lab gym clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Lumina needs Python 3.10 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q "$$(grep '^torch==' constraints.txt)" numpy -c constraints.txt
	touch $@

$(VENV)/ui: $(VENV)/torch pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e ".[ui]"
	touch $@

$(VENV)/dev: $(VENV)/ui
	$(BIN)/pip install -q -c constraints.txt -e ".[ui,notebook,dev]"
	touch $@

install: $(VENV)/ui  ## .venv with the library, the command line and the dashboard

ui: $(VENV)/ui  ## install, start a demo run in the background, serve the dashboard
	$(BIN)/lumina-ui --demo

dev: $(VENV)/dev  ## .venv with everything that developing and testing needs

check: dev  ## ruff, mypy, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev  ## format and fix what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: dev unit live browser notebooks faults-short  ## every tier that CI runs

unit: dev  ## fast tests, two processes, one thread each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(UNIT)

live: dev  ## one real background run and the commands on it
	$(BIN)/pytest tests/live

browser: dev  ## the dashboard in Chromium, on a live run
	$(BIN)/pytest -rs tests/browser

notebooks: dev  ## the notebook executed, and its view clicked in JupyterLab
	$(BIN)/pytest -rs tests/notebooks

faults-short: dev  ## every row of the fault matrix, a few tries each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/faults

faults: dev  ## the fault matrix, long form; writes docs/reliability.md
	OMP_NUM_THREADS=1 LUMINA_FAULTS=long LUMINA_FAULTS_TABLE=docs/reliability.md $(BIN)/pytest -n 2 --dist worksteal \
	  tests/faults

lab: dev  ## JupyterLab on notebooks/, for this machine only
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=notebooks

gym: dev  ## the orchestrator against baselines on broken runs; writes docs/orchestrator.md (25 minutes on two cores)
	$(BIN)/python benchmarks/gym.py

clean:  ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
