# Everything a newcomer needs: `make convergence` and `make test`. Both set up .venv by themselves.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup convergence test lint types bench clean

setup: .venv/ready

# The constraints also hold for what pip installs to build with.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

convergence: setup
	$(BIN)/python studies/convergence.py

test: setup lint types
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.relaxation $(ARGS)
	$(BIN)/python -m benchmarks.graphs $(ARGS)
	$(BIN)/python -m benchmarks.training $(ARGS)
	$(BIN)/python -m benchmarks.coupled $(ARGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
