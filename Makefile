# The two commands that matter: `make demo` and `make test`. Each sets up what it needs in a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Spinning OpenMP threads make small tensor code many times slower where cores are shared.
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_OFFLINE = 1
# Tests start hundreds of interpreters, which would compile every module anew where this is set.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-random test-slow check lint types docs gpu sheet page-tools clean

demo: $(VENV)/.demo
	@$(BIN)/python -m tools.demo out/demo

test: check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

# The same in another order each time; the seed is in the first lines of the output.
test-random: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 --dist load -p randomly

# Tests that take minutes: before a release.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow

check: lint types

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# The API reference, from docstrings; warnings are errors. A test makes it too.
docs: $(VENV)/.dev
	@$(BIN)/python -m tools.api_docs out/api

gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/gpu tests/kernels

# The contact sheets and the comparison in the README.
sheet: $(VENV)/.dev
	$(BIN)/python -m tools.sheet docs/images/sheet.jpg docs/images/parts.jpg
	$(BIN)/python -m tools.comparison docs/images/compare.jpg

# What some of the page's tests use where it is there: axe-core, and TypeScript's compiler for the modules' JSDoc types.
page-tools: | $(VENV)/bin/python
	npm install --no-fund --no-audit --prefix $(VENV)/page-tools axe-core@4.14.1 typescript@5.9.3

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e ".[cpu,serve,tools]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e ".[cpu,export,tools,oracle,dev]"
	@touch $@ $(VENV)/.demo

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
