# make quickstart   set up, compile the sample model, serve it, ask it a question
# make test         set up, pass the tests
PYTHON ?= python3
VENV ?= .venv

# Without a C compiler on the machine, the hermetic one from PyPI does the work.
EXTRA := $(if $(shell command -v cc gcc clang 2>/dev/null),,toolchain)
COMMA := ,
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install -q

.PHONY: quickstart test test-reference lint format bench faults clean

quickstart: $(VENV)/.base
	$(VENV)/bin/python examples/quickstart.py

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -q

# Compares with transformers live; torch and transformers are needed here and nowhere else.
test-reference: $(VENV)/.reference
	$(VENV)/bin/python -m pytest -q -m reference
	$(VENV)/bin/python -m tests.reference.generate --check

# The fault suite with many more random runs; prints the table of docs/reliability.md.
faults: $(VENV)/.dev
	FAULT_RUNS=$${FAULT_RUNS:-20} $(VENV)/bin/python -m pytest -q tests/faults --timeout=3000

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.reference
	$(VENV)/bin/python -m benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.$(if $(EXTRA),[$(EXTRA)])'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[dev$(if $(EXTRA),$(COMMA)$(EXTRA))]'
	@touch $@

$(VENV)/.reference: $(VENV)/.dev
	$(PIP) -e '.[dev$(COMMA)reference]'
	@touch $@

clean:
	rm -rf $(VENV) .quickstart build dist .mypy_cache .ruff_cache .pytest_cache
