# make run | test | check | demo
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 3000

OLDEST := .venv-oldest

SPREAD := .venv-spread

ON_POSTGRES := tests/test_concurrency.py tests/test_files.py tests/test_into.py tests/test_process.py tests/test_update.py \
    tests/test_publish.py tests/test_shares.py tests/test_status.py tests/test_file.py tests/test_hostile_output.py

ON_OLDEST := $(addprefix tests/test_,$(addsuffix .py,dagster_assets dagster_archive dagster_checks dagster_components \
    dagster_readme dagster_scenarios dagster_sensor cli files hostile_output into process update))

# Tests start hundreds of Python processes, which else compile the packages anew each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-postgres test-oldest test-crash test-daemon test-spread test-flips soak fuzz screenshots bench scale demo check dist format lint types layers clean

run: $(STAMP)
	@PORT=$(PORT) $(BIN)/python -m mmmeta_dagster.serve

test: $(STAMP)
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# Every verb killed, interrupted and starved at some hundred points.
test-crash: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m crash tests/crash

# The tests of what clients do, with each client's state on a real PostgreSQL server: apt-get install postgresql
test-postgres: $(STAMP)
	MMMETA_TEST_STATE=postgresql $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder \
	    -m "not daemon and not crash and not spread" $(ON_POSTGRES) tests/test_postgres.py

# The oldest of each package that pyproject.toml allows; warnings between them and newer packages are their own.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n auto --dist loadfile -W ignore::Warning $(ON_OLDEST)

test-daemon: $(STAMP)
	$(BIN)/python -m pytest -m daemon

# Celery workers on Redis with PostgreSQL, killed while they work, and what is in deploy: make test-spread DOCUMENTS=100000 KILLS=50
test-spread: $(SPREAD)/.installed
	@command -v redis-server >/dev/null || { echo "make test-spread needs redis-server: apt-get install redis-server"; exit 1; }
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || \
	    { echo "make test-spread needs PostgreSQL: apt-get install postgresql"; exit 1; }
	$(if $(DOCUMENTS),SPREAD_DOCUMENTS=$(DOCUMENTS)) $(if $(KILLS),SPREAD_KILLS=$(KILLS)) $(SPREAD)/bin/python -m pytest -n 2 -m spread tests/spread

# make bench N="1000 10000" ROUNDS=5, and WRITE=--write for docs/performance.md. Of more than FILES documents only catalogs are built.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	$(BIN)/python -m benchmarks $(N) --rounds $(or $(ROUNDS),5) $(if $(FILES),--files $(FILES)) --others $(WRITE)

# What verbs take with catalogs of so many rows: make scale N="1000000 10000000" WRITE=--write; ten million need 40 GB of disk
scale: $(STAMP)
	$(BIN)/python -m benchmarks.scale $(N) $(WRITE)

# Chromium has to be on PATH: apt-get install chromium
screenshots: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group screenshots
	$(BIN)/python docs/screenshots.py

# Processes killed at every step of every verb, then at random ones: make soak HOURS=8
soak: $(STAMP)
	@cd tests && ../$(BIN)/python -m crash.soak $(if $(HOURS),$$(($(HOURS) * 60)),$(or $(MINUTES),60)) $(SEED)

# Bits flip in a metadir, a thousand of each kind, and a repair is killed at each of its steps; minutes.
test-flips: $(STAMP)
	MMMETA_FLIPS=1000 MMMETA_KILLS=1000 $(BIN)/python -m pytest -n auto tests/repair
# Each target for so many minutes; what it finds is kept in tests/fuzz/cases.
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	$(BIN)/python tests/fuzz/run.py $(or $(MINUTES),5) $(TARGETS)

demo: $(STAMP)
	@$(BIN)/python -m mmmeta_dagster.demo

# The packages as PyPI gets them, each tried out in an environment that has nothing else.
dist: $(STAMP)
	rm -rf dist .venv-dist
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd dist && ../.venv-dist/bin/mmmeta --version
	cd dist && ../.venv-dist/bin/python -c 'import mmmeta_core, mmmeta_dagster; from importlib.resources import files; \
	    [files(name).joinpath("py.typed").read_bytes() for name in ("mmmeta_core", "mmmeta_dagster")]'
	.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/*.tar.gz
	cd dist && ../.venv-dist/bin/mmmeta --version
	rm -rf .venv-dist

check: format lint types layers test

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

layers: $(STAMP)
	$(BIN)/lint-imports --no-cache

define install
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmmeta needs Python 3.11 or newer, this is %d.%d: run make with PYTHON=/path/to/python3.11" % sys.version_info[:2])' && \
echo "setting up $(1) (once) …" && \
{ test -x $(1)/bin/python || $(PYTHON) -m venv $(1); } && \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1" && \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group dev $(2) && \
touch $(1)/.installed
endef

$(STAMP): pyproject.toml
	@$(call install,$(VENV),)

$(OLDEST)/.installed: pyproject.toml .ci/oldest
	@mkdir -p $(OLDEST) && .ci/oldest > $(OLDEST)/constraints.txt
	@$(call install,$(OLDEST),--constraint $(OLDEST)/constraints.txt)

# On top of what `make test` uses, which stays as it is: a package of another version than there goes here only.
$(SPREAD)/.installed: $(STAMP)
	@echo "setting up $(SPREAD) (once) …"
	@$(BIN)/python -m venv --clear --without-pip $(SPREAD)
	@below=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	    here=$$($(SPREAD)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	    echo "import site; site.addsitedir('$$below')" > $$here/below.pth
	@$(SPREAD)/bin/python -m pip install --quiet --disable-pip-version-check --group spread
	@ln -s ../../$(BIN)/mmmeta $(SPREAD)/bin/mmmeta  # what is measured as a command
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(SPREAD) .venv-dist .run dist build
