# The one task list. `make` alone prints it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run test test-fast check fmt format-check lint types imports lua-check spelling bench mutants fuzz proto clean

help: ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## install, then serve examples/policy on ports 8081, 8080 and 8082
	@$(BIN)/ratelimitd dev --policy examples/policy

test: $(VENV)/.dev ## every test; an optional part that is missing skips (fails when CI=true)
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/.dev ## the tests that need neither a store nor a server
	$(PYTEST) tests/unit $(ARGS)

check: format-check lint types imports lua-check spelling ## format, lint, types, import contracts, Lua, spelling

fmt: $(VENV)/.dev ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix-only --quiet .

format-check: $(VENV)/.dev ## whether the code is formatted
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.dev ## mypy
	$(BIN)/mypy

imports: $(VENV)/.dev ## import contracts
	$(BIN)/lint-imports

lua-check: $(VENV)/.dev ## luacheck over the expanded scripts
	$(BIN)/python -m tests.lua.luacheck

spelling: $(VENV)/.dev ## codespell
	$(BIN)/codespell

bench: $(VENV)/.dev ## measure; writes bench/RESULTS.md
	$(BIN)/python -m bench.run $(ARGS)

mutants: $(VENV)/.dev ## break the code on purpose; every mutant must fail a test
	$(BIN)/python -m tests.mutants $(ARGS)

fuzz: $(VENV)/.dev ## play ten minutes of wrong clients against the HTTP/2 connection
	$(BIN)/python -m tests.transport.h2.fuzz $(ARGS)

proto: $(VENV)/.installed ## compile proto/ again after an edit
	$(BIN)/pip install --quiet --no-deps -e .

clean: ## remove everything that was made here
	rm -rf $(VENV) .ratelimitd build dist htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache
	rm -rf .hypothesis .import_linter_cache ratelimitd/_proto

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ratelimitd needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python's venv is missing; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/.installed: $(BIN)/pip pyproject.toml constraints.txt proto/build_hook.py $(shell find proto -name '*.proto')
	@echo "Installing ratelimitd into $(VENV) (about a minute the first time) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "Installing the test tools into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check "pip>=25.1" && \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --group dev
	@touch $@
