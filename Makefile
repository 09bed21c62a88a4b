# `make demo` and `make test` set everything up by themselves.
# PYTHON names the interpreter that builds .venv; TORCH_INDEX the package index torch alone comes
# from, such as https://download.pytorch.org/whl/cpu for a small CPU build.

PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
FAST := not slow and not gpu and not browser
SLOW := slow and not gpu and not browser
BROWSER := browser and not gpu
# What the tests of tensors also run with: each call's shapes are checked, which takes most of the time.
SHAPES := --jaxtyping-packages=turnout,beartype.beartype
TENSORS := tests/nn tests/moe tests/models tests/objectives tests/generate
TEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-shapes test-slow test-browser check format clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## build .venv with the pinned versions; does nothing twice

demo: $(STAMP) ## train a small Switch Transformer on Python's own library
	$(BIN)/turnout train switch_demo

test: $(STAMP) ## the fast tests
	$(TEST) -m "$(FAST)"

test-shapes: $(STAMP) ## the fast tests of tensors again, with the shapes of every call checked
	$(TEST) $(SHAPES) -m "$(FAST)" $(TENSORS)

test-slow: $(STAMP) ## the slow tests
	$(TEST) -m "$(SLOW)"

test-browser: $(STAMP) ## the tests that need chromium
	$(TEST) -m "$(BROWSER)"

check: $(STAMP) ## style, formatting, types, architecture
	$(BIN)/ruff check src tests examples benchmarks experiments
	$(BIN)/ruff format --check src tests examples benchmarks experiments
	$(BIN)/mypy --strict src
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_architecture.py

format: $(STAMP) ## rewrite the code in the style that check asks for
	$(BIN)/ruff check --fix src tests examples benchmarks experiments
	$(BIN)/ruff format src tests examples benchmarks experiments

clean: ## remove caches and build outputs; runs and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

# Touched last, so that an interrupted installation is taken up again.
$(STAMP): requirements/lock.txt requirements/torch.txt requirements/trainers.txt pyproject.toml
	@$(PIP) --version >/dev/null 2>&1 || { \
	  command -v $(PYTHON) >/dev/null || \
	    { echo "error: no $(PYTHON) found; name a Python >= 3.11: make PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), Turnout needs Python >= 3.11; name one: make PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV) || \
	    { echo "error: $(PYTHON) cannot build $(VENV); on Debian and Ubuntu install python3-venv" >&2; exit 1; }; }
	$(PIP) install --requirement requirements/lock.txt
	$(PIP) install --requirement requirements/torch.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) install --requirement requirements/trainers.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
