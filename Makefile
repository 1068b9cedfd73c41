# make serve [MODEL=...] [QOS=qos.yaml] [HOST=...] [PORT=...] [ARGS="..."]   set up and serve
# make test                                                                 set up and run every check
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup compile serve test test-fast check fmt clean

MODEL ?=
QOS ?=
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=
export EXTRA ?= cpu
BIN := .venv/bin
# Tests that run vLLM have the machine to themselves: it uses two cores.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist worksteal

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## install everything into .venv (quick when nothing changed; EXTRA=cuda for GPUs)
	@scripts/setup.sh

compile: setup ## compile the scheduling core and the simulator; without a C compiler they run interpreted
	@$(BIN)/python scripts/compile.py

serve: compile ## serve MODEL (the demo model if none is named) on HOST:PORT
	@exec $(BIN)/niyama serve $(MODEL) --host $(HOST) --port $(PORT) $(if $(QOS),--qos $(QOS)) $(ARGS)

test: check compile ## every check and every test, real vLLM included
	$(BIN)/pytest -m "not engine" $(PARALLEL)
	$(BIN)/pytest -m engine

test-fast: setup ## the tests that need no vLLM
	$(BIN)/pytest -m "not engine" $(PARALLEL)

check: setup ## lint, format, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what was installed and cached
	rm -rf .venv src/niyama/_compiled .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
