# `make demo` and `make test` do all the set-up themselves: Python 3.11+, git and make are enough.

# The first Python here that is new enough; python3 itself if none is, so that check-python can say so.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3; do \
	$$p scripts/check-python >/dev/null 2>&1 && break; done; echo $$p)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
TEST_ARGS ?=
# One process for each core; the tests of a file share their pools, so they stay together.
PARALLEL ?= --numprocesses auto --dist loadfile
FUZZ_SECONDS ?= 600
FUZZ_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup test test-all fuzz lint format types layers demo docs bench clean

help:
	@echo "make demo      eight nodes on this machine: publish, send, kill, recover (about a minute)"
	@echo "make test      lint, types, layers and tests (at most ten minutes)"
	@echo "make test-all  the same, and the slow tests"
	@echo "make fuzz      hostile bytes for every decoder, FUZZ_SECONDS (600) in all"
	@echo "make docs      the documentation, into site/"
	@echo "make bench     the benchmarks, into out/"
	@echo "make setup     only the virtual environment in .venv"

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/check-python
	@$(PYTHON) scripts/check-python
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing titan-overlay and its development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --editable '.[dev,sim]'
	@touch $@

test: setup lint types layers
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(TEST_ARGS)

test-all: setup lint types layers
	$(BIN)/python -m pytest $(PARALLEL) $(TEST_ARGS)

# Coverage-guided where atheris is installed (pip install '.[fuzz]'), else blind; the corpus is part of `make test`.
fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports --no-logo --no-cache

demo: setup
	$(BIN)/python examples/demo.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: setup
	$(BIN)/python -m benchmarks --out out

clean:
	rm -rf $(VENV) build dist site out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
