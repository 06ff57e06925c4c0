# Two targets need nothing but python3: `make demo` shows the main job, `make test` runs every check.
# Both build their own .venv and rebuild it only when pyproject.toml has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Two test workers with one BLAS thread each use two cores; without the limit they fight for them.
PYTEST := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types layers unit slow docs build clean

help:
	@echo "make demo    install into $(VENV), sample with the bundled network before and after: eigenstep-demo.png"
	@echo "make test    install into $(VENV) with the development tools and run 'make check'"
	@echo "make check   ruff, mypy, the layers contract, tests and doctests (in the existing $(VENV))"
	@echo "make slow    the tests that take minutes"
	@echo "make docs    the documentation in site/, which needs no network to be read"
	@echo "make build   sdist and wheel in dist/, installed with extras alone in fresh environments"
	@echo "make clean   remove $(VENV), dist/, site/ and caches"

$(VENV)/user.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable ".[cli,plots,diffusers]"
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(VENV)/user.stamp $@

demo: $(VENV)/user.stamp
	$(BIN)/eigenstep demo --output eigenstep-demo.png

test: $(VENV)/dev.stamp
	$(MAKE) --no-print-directory check

check: lint types layers unit

lint:
	$(BIN)/ruff check

types:
	$(BIN)/mypy

layers:
	$(BIN)/lint-imports

unit:
	$(PYTEST)

slow: $(VENV)/dev.stamp
	$(PYTEST) -m slow

# A folder of its own: the site needs none of the development tools.
docs: $(VENV)/docs/stamp
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build

$(VENV)/docs/stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip --disable-pip-version-check install --quiet --editable ".[docs]"
	@touch $@

build: $(VENV)/dev.stamp
	$(BIN)/python -m build
	$(BIN)/python recipe/check_wheel.py

clean:
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
