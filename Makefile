# Every target sets up .venv by itself. `make` alone lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCALE ?= smoke
WORKERS ?= 2
RESULTS ?= results
ADDRESS ?= http://127.0.0.1:8265
BUDGET ?= joules=200
TUNED ?= $(RESULTS)/compare/tuned.yaml

.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  %-16s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python >= 3.11 is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,data,dashboards,sweep]'
	@touch $@

setup: $(READY) ## Install into .venv

demo: $(READY) ## The main job: the methods on digits through Ray, a table and an HTML page
	$(BIN)/harness sweep sweeps/demo.yaml --set run.results_dir=$(RESULTS)/demo $(DEMO_ARGS)
	$(BIN)/harness report $(RESULTS)/demo

test: test-fast ## All tests
	$(BIN)/python -m pytest -m "ray or data"

test-fast: $(READY) ## The tests that start no Ray and read no data set
	$(BIN)/python -m pytest -m "not ray and not data" -n $(WORKERS) --dist loadfile

test-cluster: $(READY) ## Jobs on a cluster of two nodes on this machine (part of `make test`)
	$(BIN)/python -m pytest -m cluster

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

bench-claims: $(READY) ## What `harness claims` asks of benchmarks: planning, an edge's step, what an upload gives away
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/planning.py --repeats 5 --out $(RESULTS)/bench/planning.json
	$(BIN)/python tests/benchmarks/step_time.py --out $(RESULTS)/bench/step_time.json
	$(BIN)/python tests/benchmarks/inversion.py --out $(RESULTS)/bench/inversion.json

bench-peers: ## Environments of the peers that `bench` compares with
	sh tests/benchmarks/install_peers.sh

# A target is a sweep of a paper: sweeps/<paper>/<table>.yaml, <table>_<what>.yaml, or of figures_4_5.yaml one.
sweep_of = $(firstword $(wildcard sweeps/$(1).yaml sweeps/$(1)_*.yaml $(subst figure,figures_*,sweeps/$(1))*.yaml) sweeps/$(1).yaml)
TABLES := $(sort $(filter-out sweeps/compare/% %/claims.yaml,$(wildcard sweeps/*/*.yaml)))

reproduce: $(READY) ## Every table and figure of the papers at SCALE, beside the printed numbers
	$(BIN)/harness reproduce $(TABLES) --scale $(SCALE) $(REPRODUCE_ARGS)

reproduce-list: ## What reproduce-<paper>-<table> can be
	@printf '%s\n' $(subst /,-,$(patsubst sweeps/%.yaml,reproduce/%,$(TABLES)))

reproduce-%: $(READY) ## One of them, e.g. reproduce-fedgkt-table1 SCALE=small
	$(BIN)/harness reproduce $(call sweep_of,$(subst -,/,$*)) --scale $(SCALE) $(REPRODUCE_ARGS)

# RPN's curves are those of its tables' runs.
reproduce-rpn-figure4: reproduce-rpn-table1 ;
reproduce-rpn-figure5: reproduce-rpn-table2 ;
reproduce-rpn-figure6: reproduce-rpn-table3 ;

compare: $(READY) ## Tune every method on val, then compare them at BUDGET on test (SCALE= for sweeps/compare as it stands)
	$(BIN)/harness tune sweeps/compare/tune.yaml --budget $(BUDGET) --out $(TUNED) $(if $(SCALE),--scale $(SCALE)) \
		--set run.results_dir=$(RESULTS)/compare $(COMPARE_ARGS)
	$(BIN)/harness compare $(TUNED) --budget $(BUDGET) $(if $(SCALE),--scale $(SCALE)) \
		--set run.results_dir=$(RESULTS)/compare $(COMPARE_ARGS)

submit-%: $(READY) ## A sweep on a cluster, e.g. submit-fedgkt-table1 ADDRESS=http://head:8265 SCALE=small
	$(BIN)/harness submit --address $(ADDRESS) $(SUBMIT_ARGS) sweep $(call sweep_of,$(subst -,/,$*)) --scale $(SCALE)

dashboard: $(READY) ## A workspace and a report on W&B that compare the runs in RESULTS (after wandb-sync)
	$(BIN)/harness dashboard $(RESULTS)

claims: $(READY) ## Every claim with its verdict
	$(BIN)/harness claims

wandb-sync: $(READY) ## Upload clean W&B runs rebuilt from the files of every run
	$(BIN)/harness wandb-sync $(RESULTS)

clean: ## Remove caches and the demo's results (not the environment)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis $(RESULTS)/demo

.PHONY: help setup demo test test-fast test-cluster lint types check golden bench bench-planning bench-claims bench-peers claims dashboard wandb-sync clean
.PHONY: reproduce reproduce-list compare
