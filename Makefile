# Every target sets up what it needs: a Python >= 3.11, make and the package index are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test check bench faults clean

demo: .venv/core ## make photos of made-up fruit, run the whole chain on them, write a report
	$(BIN)/fruits demo --to demo

test: .venv/dev ## every test
	$(BIN)/python -m pytest

check: .venv/dev ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/bench ## speed and memory against what a user would pick instead, as ratios of one run
	$(BIN)/python -m benchmarks

faults: .venv/bench ## kill runs, fill disks, damage files, disturb the bucket; count what is lost: hours
	$(BIN)/python -m faults

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fruits needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv/bench: .venv/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[spark]'
	@touch $@

clean:
	rm -rf .venv demo build dist benchmarks/results
