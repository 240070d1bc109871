SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test faults mutants eval guarding judge lock-judges wheels lint format proto bench bench-peers lock lock-peers clean

BIN := .venv/bin

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Everything the other targets need; afterwards .venv/bin/edgeloop works
	@infra/setup.sh

demo: setup ## The whole loop on this machine, four to five minutes, with a report
	@$(BIN)/edgeloop demo --profile machine --devices 20 --seconds 180 --seed 7

# In the order of the files: else those with few tests come last, and with them the longest test.
test: setup ## Tests, against real brokers; three files at a time (WHOLE=1: the long ones and every case too)
	@TMPDIR=$$(tests/memory_folder.sh) $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(if $(WHOLE),--whole)

faults: setup ## Break a running system RUNS times (default 12), and tally what an independent checker finds
	@$(BIN)/python -m tests.faults --tally docs/reliability.md

# SEED draws the sample; SAMPLE is how many mutants of each module, or "all". MODULES are beginnings of paths.
mutants: setup ## Do the tests notice small changes of deciding code? SEED=7 SAMPLE=6 (or all)
	@JOBS=$${JOBS:-2} $(BIN)/python -m tests.mutants $(MODULES)

# RECORDINGS: a folder with nab/, skab/, ur3_cobotops/ and i94_traffic/; what is not there is said to be not measured.
# FLEETS of each cell; a run that was stopped goes on where it was (build/learning.jsonl).
eval: setup ## How well `model fit` detects, and whether retraining helps; writes docs/detection.md and docs/learning.md
	@$(BIN)/python -m benchmarks.detection $(RECORDINGS) --write docs/detection.md
	@$(BIN)/python -m benchmarks.learning $(RECORDINGS) --first $${FIRST:-200} --fleets $${FLEETS:-8} --journal build/learning.jsonl --write docs/learning.md

# Resumable: cells that are done stay in build/guarding.jsonl. About half an hour of one core in all.
guarding: setup ## Simulate rollouts of right and wrong models through the real judge; writes docs/rollouts.md
	@$(BIN)/python -m benchmarks.guarding --write docs/rollouts.md

# Each judge has an environment of its own (.venv-judge-NAME), made once. Resumable: build/judge keeps what is done.
judge: setup ## Simulators of others judge the product; writes docs/verticals (JUDGES="machine"; all by default)
	@$(BIN)/python -m benchmarks.judge $(JUDGES) --write

wheels: setup ## Has every package of a device a wheel for aarch64 and x86-64? (asks the index; two minutes)
	@$(BIN)/python -m tests.edge_wheels

lint: setup ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## Apply ruff's format and safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: setup ## Generate schemas/proto from its .proto files
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --pyi_out=. schemas/proto/*.proto

bench: setup ## Measure (benchmarks/README.md says how to trust the numbers)
	@$(BIN)/python -m benchmarks

bench-peers: setup ## Measure beside bytewax, quixstreams, Faust, Spark and a bare loop (about 2 GB to fetch, once)
	@$(BIN)/python -m benchmarks peers

# Needs uv. The peers' environments are pinned beside their scripts, apart from our own lock.
lock-peers: setup
	@for peer in bare bytewax quixstreams faust spark; do (cd benchmarks/peers/$$peer && \
		uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --no-header --quiet --output-file requirements.txt) || exit 1; done

# Needs uv. Pins of the judges' environments, apart from our own lock.
lock-judges: setup
	@cd benchmarks/judge && for judge in machine traffic wearable robot; do uv pip compile requirements-judge-$$judge.in --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--quiet --output-file requirements-judge-$$judge.txt || exit 1; done

# The lock names no index and no path: it holds wherever the same files are served.
lock: setup ## Resolve requirements.txt anew from pyproject.toml (needs uv)
	@command -v uv >/dev/null || [ -x $(BIN)/uv ] || { echo "error: uv is not installed: $(BIN)/pip install uv" >&2; exit 1; }
	@PATH="$$PATH:$(BIN)" uv pip compile pyproject.toml --extra all --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet $(UPGRADE) \
		--output-file requirements.txt

clean: ## Remove the environment and every cache of this checkout (state and jars stay)
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
