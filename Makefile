# A thin skin: every target is one or two commands that can be typed by hand.
# Needs python3.11 with its venv module, and make. Nothing is installed outside .venv.

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo check test features bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed; name it with PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## the file replication example: a server process and a client; BINDING=... and ARGS=... are passed on
	$(BIN)/python -m examples.filerep $(if $(BINDING),--binding '$(BINDING)') $(ARGS)

check: $(STAMP) ## style and types: ruff, mypy --strict, pyright, and that every public symbol has a type
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	@# This mode of pyright takes no --pythonpath; it looks for python on the PATH.
	PATH="$(abspath $(BIN)):$$PATH" pyright --ignoreexternal --verifytypes apcrt
	PATH="$(abspath $(BIN)):$$PATH" pyright --ignoreexternal --verifytypes apcrt_transports

test: check ## everything that must hold: check, then the tests with branch coverage
	$(BIN)/python -m pytest --cov --cov-report=term

features: $(STAMP) ## which rows of the feature list have a passing test
	$(BIN)/python -m pytest -q --no-header --features-report=.pytest_cache/features.json; \
		$(BIN)/python -m tests.features .pytest_cache/features.json

bench: $(STAMP) ## the measurements in tests/benchmarks
	$(BIN)/python -m tests.benchmarks $(ARGS)

clean: ## remove the environment and everything generated
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
