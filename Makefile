# Everything from a fresh checkout: `make demo` and `make test` do the whole set-up first, in a
# virtual environment of their own, and can be run again at any time. `make help` lists the rest.
#
#   PYTHON=python3.12 make test     another interpreter
#   TORCH="torch==2.13.0" …         another build of torch
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?= torch==2.13.0
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STAGES := loop sca train generate segment data_cards
TYPES := build/types

# Recipes name no absolute path, so a checkout whose path has spaces works. The stamp is written
# last, so a set-up that was cut short is done again; it holds the path and what was asked for, so a
# checkout that was moved or copied, or asked for with other extras, is set up anew.
WANTED := $(CURDIR) $(TORCH) $(EXTRAS)
ifneq ($(shell cat $(READY) 2>/dev/null),$(WANTED))
.PHONY: $(READY)
CLEAR := --clear
endif

.PHONY: help setup demo test slow lint format types clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make the virtual environment in .venv; nothing to do if it is up to date

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "univg needs Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2; exit 2; }
	rm -f $(READY)
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	# torch first and alone: left to a range, pip takes a build with several GB of CUDA packages.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@printf '%s\n' '$(WANTED)' > $(READY)

demo: setup ## the recipe on five made-up shots, with its answer: demo/index.html
	$(BIN)/univg demo --out demo

test: setup ## the fast tests
	$(BIN)/python -m pytest

slow: setup ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: setup ## ruff: rules and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: setup ## let ruff mend what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# mypy knows no mapping of packages to folders, so it gets the tree that an install would make.
types: setup ## mypy, strict, on all packages
	rm -rf $(TYPES) && mkdir -p $(TYPES)/univg
	for part in univg/*; do ln -s "../../../$$part" $(TYPES)/univg/; done
	for stage in $(STAGES); do \
		if [ -f $$stage/__init__.py ]; then ln -s ../../../$$stage $(TYPES)/univg/$$stage; fi; \
	done
	cd $(TYPES) && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml --cache-dir ../mypy -p univg

clean: ## remove the virtual environment, caches and builds; demo/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
