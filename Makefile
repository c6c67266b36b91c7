# One command each. `make run` on a bare machine ends in a server with an image one click away.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.tessera-setup
BASE   ?= .
ARGS   ?=
JOBS   ?= 2
PYTEST  = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup run check lint types fast test test-all fix shape bench parity templates

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## make the environment in .venv; a second call does nothing

$(STAMP): pyproject.toml scripts/setup.py
	@$(PYTHON) scripts/setup.py $(VENV)
	@touch $@

run: setup ## make a demo checkpoint if there is none, start the server (ARGS="--port 8000 ...", BASE=folder)
	@$(BIN)/python scripts/demo.py --unless-any $(BASE)/models/checkpoints
	@exec $(BIN)/tessera serve --base-directory $(BASE) $(ARGS)

check: setup ## lint, types, import directions, fast tests; under a minute
	@$(MAKE) --no-print-directory -j 2 -k -O lint types fast

lint:
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types:
	@$(BIN)/mypy

fast:
	@$(BIN)/python -m pytest -q -m "not slow and not server and not browser and not parity"

test: setup ## everything but the slow tests, in two processes (JOBS=4: in four)
	@$(PYTEST) -m "not slow"

test-all: setup ## everything
	@$(PYTEST)

fix: setup ## format, and mend what the linter can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

shape: setup ## sizes of files and functions beside what we aim at
	@$(BIN)/python scripts/shape.py

parity: setup ## the table of parity cases: error, criterion, verdict (ARGS="--only sampler")
	@$(BIN)/python -m tests.parity $(ARGS)

bench: setup ## beside ComfyUI, in one run: make bench COMFYUI=folder [COMFYUI_PYTHON=its python]
	@$(BIN)/python scripts/bench.py --comfyui "$(COMFYUI)" --comfyui-python "$(COMFYUI_PYTHON)" $(ARGS)

templates: setup ## run ComfyUI's official templates through the real front end on small random models
	@$(BIN)/python -m scripts.templates $(ARGS)
