# One command for each thing worth doing; each target first sets up what it needs, into .venv, by itself.
#
#   make demo     the whole life cycle on real weights and real text (KEEP=1 leaves the hub running)
#   make test     every test of every package, then the packages together
#   make test-postgresql   the server's tests once more, all of them on PostgreSQL and S3
#   make lint     style, types, layering, schemas
#   make docs     the documentation, built strictly into site/
#   make bench    the benchmark programs; tables on the terminal, JSON in .bench/
#   make clean    remove what was built or fetched (make distclean: the environment as well)
#
# Knobs:
#   PYTHON=python3.12           the interpreter the environment is made from (3.11 or newer)
#   VENV=.venv                  where the environment lies
#   PIP_FLAGS="…"               given to every "pip install", for instance "--index-url …" for a mirror
#   TORCH_PIP_FLAGS="…"         given to the installation of torch only, for instance the index of its CPU builds
#   TORCH=torch==2.13.0 TRANSFORMERS=transformers~=5.23.0
#   TEST_FLAGS="-k resolution"  given to pytest;  TEST_WORKERS=2 processes (0: one process, no workers)
#   BENCHMARKS="packages/core/benchmarks/bench_….py"   which programs make bench runs
#   BENCH_ADAPTERS=100000       how many made-up adapters the hub has that make bench asks
#   BENCH_QUICK=1               make bench: small sizes and few rounds, to see that it runs; its figures say little
#   KEEP=1                      make demo: leave the hub running and print its address

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
TORCH_PIP_FLAGS ?=
TORCH ?= torch==2.13.0
TRANSFORMERS ?= transformers~=5.23.0
TEST_FLAGS ?=
TEST_WORKERS ?= 2
KEEP ?=

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP = $(BIN)/python -m pip --disable-pip-version-check
INSTALL = $(PIP) install --quiet $(PIP_FLAGS)
BENCHMARKS ?= $(sort $(wildcard packages/*/benchmarks/bench_*.py))
HUB_BENCH := packages/hub-server/benchmarks
BENCH_QUICK ?=
BENCH_ADAPTERS ?= $(if $(BENCH_QUICK),5000,100000)
BENCH_HUB = .bench/hub-$(BENCH_ADAPTERS)
BENCH_ROUNDS = $(if $(BENCH_QUICK),3,40)
BENCH_SECONDS = $(if $(BENCH_QUICK),3,20)
BENCH_PUBLISHES = $(if $(BENCH_QUICK),60,1000)
PYPROJECTS := $(wildcard packages/*/pyproject.toml)
say = @printf '\033[1m%s\033[0m\n' "$(1)"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-postgresql lint docs bench clean distclean setup

help:
	@sed -n '3,22s/^# \{0,1\}//p' $(MAKEFILE_LIST)

# --- the environment, in layers: a layer is installed again only when its list of requirements changes -------------------

$(STAMPS)/venv:
	$(call say,Making the environment $(VENV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than Python 3.11: give a newer one, for instance make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@$(INSTALL) 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	$(call say,Installing $(TORCH) and $(TRANSFORMERS) (the largest downloads))
	@$(PIP) install $(PIP_FLAGS) $(TORCH_PIP_FLAGS) '$(TORCH)'
	@$(INSTALL) '$(TRANSFORMERS)'
	@touch $@

$(STAMPS)/packages: $(STAMPS)/torch $(PYPROJECTS)
	$(call say,Installing the four packages from this folder)
	@$(INSTALL) '$(TRANSFORMERS)' -e packages/spec -e packages/core -e packages/hub-client -e packages/hub-server
	@touch $@

$(STAMPS)/extras: $(STAMPS)/packages pyproject.toml
	$(call say,Installing the optional parts and the test tools)
	@$(INSTALL) '$(TRANSFORMERS)' --group test -e packages/spec -e 'packages/core[train,plots,datasets]' \
	  -e 'packages/hub-client[hf,keyring]' -e 'packages/hub-server[postgresql]'
	@touch $@

$(STAMPS)/lint: $(STAMPS)/extras pyproject.toml
	$(call say,Installing the lint tools)
	@$(INSTALL) --group lint
	@touch $@

$(STAMPS)/docs: $(STAMPS)/packages pyproject.toml
	$(call say,Installing the documentation tools)
	@$(INSTALL) --group docs
	@touch $@

setup: $(STAMPS)/extras $(STAMPS)/lint $(STAMPS)/docs

# --- what one does ---------------------------------------------------------------------------------------------------------

demo: $(STAMPS)/packages
	@DEMO_PIP_FLAGS='$(PIP_FLAGS)' $(BIN)/python -m demo $(if $(KEEP),--keep)

test: $(STAMPS)/extras
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(if $(filter-out 0,$(TEST_WORKERS)),-n $(TEST_WORKERS) --dist loadfile) $(TEST_FLAGS)

test-postgresql: $(STAMPS)/extras
	@ADAPTERHUB_TEST_BACKENDS=postgresql OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(if $(filter-out 0,$(TEST_WORKERS)),-n $(TEST_WORKERS) --dist loadfile) $(TEST_FLAGS) packages/hub-server/tests

lint: $(STAMPS)/lint
	$(call say,ruff check)
	@$(BIN)/ruff check .
	$(call say,ruff format --check)
	@$(BIN)/ruff format --check .
	$(call say,mypy)
	@$(BIN)/mypy
	$(call say,lint-imports)
	@$(BIN)/lint-imports
	$(call say,schemas as the code says)
	@$(BIN)/python -m adapterhub.spec schemas --check

docs: $(STAMPS)/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in site/: open site/index.html"

bench: $(STAMPS)/extras
	@mkdir -p .bench
	@for program in $(BENCHMARKS); do \
	  printf '\033[1m%s\033[0m\n' "$$program"; \
	  BENCH_QUICK='$(BENCH_QUICK)' PIP_FLAGS='$(PIP_FLAGS)' TORCH_PIP_FLAGS='$(TORCH_PIP_FLAGS)' \
	  $(BIN)/python "$$program" --json ".bench/$$(basename "$$program" .py).json" || exit 1; \
	done
	$(call say,A hub with $(BENCH_ADAPTERS) adapters)
	@test -d $(BENCH_HUB) || $(BIN)/python $(HUB_BENCH)/synthetic.py $(BENCH_HUB) --count $(BENCH_ADAPTERS)
	@$(BIN)/python $(HUB_BENCH)/search_and_explore.py $(BENCH_HUB) --rounds $(BENCH_ROUNDS) --json .bench/hub_search.json
	@$(BIN)/python $(HUB_BENCH)/index_on_the_wire.py $(BENCH_HUB) --json .bench/hub_index.json
	@$(BIN)/python $(HUB_BENCH)/load.py resolve $(BENCH_HUB) --seconds $(BENCH_SECONDS) --json .bench/hub_resolve.json
	@$(BIN)/python $(HUB_BENCH)/load.py publish --count $(BENCH_PUBLISHES) --json .bench/hub_publish.json
	@$(BIN)/python $(HUB_BENCH)/load.py siege $(BENCH_HUB) --rate 200 --seconds $(BENCH_SECONDS) --json .bench/hub_siege.json

clean:
	rm -rf .demo .bench site dist build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis htmlcov .coverage
	find packages integration_tests demo docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
