# Every target sets up .venv by itself. `make` alone lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCALE ?= smoke
WORKERS ?= 2
RESULTS ?= results

.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  %-16s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python >= 3.11 is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,data]'
	@touch $@

setup: $(READY) ## Install into .venv

demo: $(READY) ## The main job: the methods on digits through Ray, a table and an HTML page
	$(BIN)/harness sweep sweeps/demo.yaml --set run.results_dir=$(RESULTS)/demo $(DEMO_ARGS)
	$(BIN)/harness report $(RESULTS)/demo

test: test-fast ## All tests
	$(BIN)/python -m pytest -m ray

test-fast: $(READY) ## The tests that start no Ray
	$(BIN)/python -m pytest -m "not ray" -n $(WORKERS)

lint: $(READY) ## Format, lint, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell

types: $(READY) ## mypy, strict
	$(BIN)/mypy

check: lint types test ## What CI runs

golden: $(READY) ## Rewrite tests/golden; review the diff
	$(BIN)/python -m pytest -q tests/methods/test_conformance.py --update-golden

bench: $(READY) ## Speed against the floor and the peers that are installed (see bench-peers)
	$(BIN)/python tests/benchmarks/bench.py $(BENCH_ARGS)

bench-planning: $(READY) ## Seconds to plan a round of a thousand to a million clients
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/planning.py

bench-peers: ## Environments of the peers that `bench` compares with
	sh tests/benchmarks/install_peers.sh

claims: $(READY) ## Every claim with its verdict
	$(BIN)/harness claims

wandb-sync: $(READY) ## Upload clean W&B runs rebuilt from the files of every run
	$(BIN)/harness wandb-sync $(RESULTS)

clean: ## Remove caches and the demo's results (not the environment)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis $(RESULTS)/demo

.PHONY: help setup demo test test-fast lint types check golden bench bench-planning bench-peers claims wandb-sync clean
