# make run | test | check | demo
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 3000

.PHONY: run test demo check format lint types layers clean

run: $(STAMP)
	@PORT=$(PORT) $(BIN)/python -m mmmeta_dagster.serve

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile

demo: $(STAMP)
	@$(BIN)/python -m mmmeta_dagster.demo

check: format lint types layers test

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports --no-cache

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmmeta needs Python 3.11 or newer, this is %d.%d: run make with PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@echo "setting up $(VENV) (once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .run dist build
