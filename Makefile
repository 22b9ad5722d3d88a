# Everything a newcomer needs: `make convergence` and `make test`. Both set up .venv by themselves.

PYTHON ?= python3
BIN := .venv/bin
CATALOGUE := .venv-catalogue/bin
PEERS := .venv-peers/bin

.PHONY: setup convergence test lint format types bench bench-peers catalogue clean

setup: .venv/ready

# The constraints also hold for what pip installs to build with.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

convergence: setup
	$(BIN)/python studies/convergence.py

test: setup lint types
	$(BIN)/python -m pytest --cov

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.relaxation $(ARGS)
	$(BIN)/python -m benchmarks.stepping $(ARGS)
	$(BIN)/python -m benchmarks.graphs $(ARGS)
	$(BIN)/python -m benchmarks.modules $(ARGS)
	$(BIN)/python -m benchmarks.training $(ARGS)
	$(BIN)/python -m benchmarks.coupled $(ARGS)

# Other solvers of the same equation, in an environment of their own.
bench-peers: .venv-peers/ready
	$(PEERS)/python -m benchmarks.peers $(ARGS)

.venv-peers/ready: pyproject.toml benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers/requirements.txt --editable .
	touch $@

# Other people's modules, in an environment of their own.
catalogue: .venv-catalogue/ready
	$(CATALOGUE)/python -m tests.catalogue --save $(ARGS)

.venv-catalogue/ready: pyproject.toml tests/catalogue/requirements.txt
	$(PYTHON) -m venv .venv-catalogue
	$(CATALOGUE)/python -m pip install --quiet --disable-pip-version-check --requirement tests/catalogue/requirements.txt --editable .
	touch $@

clean:
	rm -rf .venv .venv-catalogue .venv-peers .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
