# Two commands do everything: `make demo` and `make test`. Both make .venv and install what they need, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PY     := $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help install demo test thorough lint bench clean

help:
	@echo "make demo   hear speech, train a small ViT, find pictures by words, write demo_out/report.html"
	@echo "make test   lint, types, floors and the whole test suite"
	@echo "make thorough  the tests that 'make test' leaves out: more examples of the same"
	@echo "make lint   only the checks that run nothing"
	@echo "make bench  benchmarks against the peers, written to benchmarks/results/"
	@echo "make clean  remove .venv and what the commands left"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@# Debian's Python may come without ensurepip: then the pip outside puts one inside
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install --quiet pip; }
	@echo "installing into $(VENV): 2 to 4 minutes, 6 GB"
	@PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[demo,media,onnx,search,test,bench]'
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(PY) -m sensorium.demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# one thread a worker: two workers with two threads each would fight for two cores
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

thorough: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal -m thorough

bench: $(STAMP)
	$(PY) -m benchmarks.whisper
	$(PY) -m benchmarks.vit
	$(PY) -m benchmarks.zero_shot
	$(PY) -m benchmarks.speech
	$(PY) -m benchmarks.dit

clean:
	rm -rf $(VENV) demo_out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
