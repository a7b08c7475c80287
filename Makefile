# `make help` lists what there is. Any name below with ?= can be set: make test PYTEST_ARGS="-x tests/test_datasets.py"

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2 --dist worksteal
# One part in so many of them: make slow SHARE=0/4
SHARE ?= 0/1

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXAMPLES := $(wildcard examples/*.py)

.DEFAULT_GOAL := help
.PHONY: help setup test slow demo lint examples docs clean $(EXAMPLES)

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-10s %s\n' "$$name" "$$what"; done

setup: $(STAMP)  ## make the virtual environment with everything the other targets need

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "No $(PYTHON) here. Install Python 3.11, 3.12 or 3.13, or name one: make setup PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." \
			"Name another: make setup PYTHON=python3.12" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments (venv or ensurepip is missing)." \
			"On Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --constraint constraints.txt torch
	"$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	@touch "$@"

test: $(STAMP)  ## run the tests (one torch thread per worker)
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff, its formatting, and mypy --strict
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy" --strict

slow: $(STAMP)  ## run the tests that `make test` leaves out: compiled programs, long chains, further cases
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q $(PYTEST_ARGS) --share $(SHARE) -m "compiled or slow"

demo: $(STAMP)  ## compare four methods on Old Faithful, with a report in runs/faithful
	"$(BIN)/zoo" compare BayesianGMM faithful --set components=2 --methods em,cavi,svi,map --seed 0 --out runs/faithful

examples: $(EXAMPLES)  ## run every example

$(EXAMPLES): $(STAMP)
	@echo "== $@"; MPLBACKEND=Agg "$(BIN)/python" "$@"

docs: $(STAMP)  ## build the site in docs/_build/html: pages are executed, warnings are errors
	OMP_NUM_THREADS=1 "$(BIN)/python" -m sphinx -W --keep-going -q docs docs/_build/html

clean:  ## remove the environment, caches and outputs
	rm -rf "$(VENV)" runs build dist docs/_build docs/generated *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
