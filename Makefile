# `make demo` shows the whole chain; `make test` runs the tests. Both set up .venv first, once.
# A machine without a GPU can take the small CPU build of PyTorch:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
MADE := .venv/.made
# A file's tests run on one worker, which makes their fixtures once; tests/conftest.py orders the files.
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15
# Whatever the environment says: without bytecode every process that a test starts compiles all modules anew.
export PYTHONDONTWRITEBYTECODE :=
RELEASES := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-slurm kernels lint types format clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/.installed-demo  ## from files to generated digits and clips, in about 8 minutes on 2 cores; see runs/demo
	$(BIN)/longtake demo

test: .venv/.installed-dev  ## the tests, in about 12 minutes on 2 cores
	$(PYTEST) -m "not full and not cuda"

test-slurm: .venv/.installed-dev  ## every row of preemption and failure on a real SLURM, as root (slurm-wlm, munge)
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m slurm --durations=15 tests/integration/test_slurm*.py

test-full: .venv/.installed-dev .venv/.installed-kernels .venv/.installed-mxfp8  ## all tests, with the exhaustive versions
	$(PYTEST) -m "not slurm" --hypothesis-profile=exploring

kernels: .venv/.installed-dev .venv/.installed-kernels .venv/.installed-mxfp8  ## the tests of Triton kernels, in its interpreter (1 GB on disk), and of MXFP8
	LONGTAKE_KERNELS=required $(PYTEST) -m "not cuda" tests/models/kernels tests/models/layers/eight_bits/test_mxfp8.py

lint: .venv/.installed-dev  ## style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/.installed-dev  ## static types
	$(BIN)/mypy

format: .venv/.installed-dev  ## format and fix what can be fixed by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove caches and builds; .venv and runs stay
	rm -rf build longtake.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find core data launch models tests tools configs -name __pycache__ -type d -exec rm -rf {} +

# A stamp is as old as the last installation that succeeded, so a broken one is repeated.
$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "longtake needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@touch $@

# PyTorch comes first, since DeepSpeed looks for it while it is built; DS_BUILD_OPS=0: nothing compiles C++.
.venv/.installed-%: $(RELEASES) | $(MADE)
	@echo "Setting up .venv for $*; the first time takes some minutes, most of them for PyTorch."
	$(BIN)/pip install -c constraints.txt torch
	DS_BUILD_OPS=0 $(BIN)/pip install -c constraints.txt -e '.[$*]'
	@touch $@
