# make install   a .venv with the package and its tools
# make demo      installs, and trains PPO on textrl/Keyword-v0
# make test      installs, and runs every check that CI runs
# make check     the quick part: lint, types, import contracts, fast tests
# make bench     speed beside peers

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MPLBACKEND := Agg

.PHONY: install demo test check bench lint types contracts tests wheel

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/textrl train

test: install lint types contracts tests wheel

check: install lint types contracts
	$(BIN)/pytest -q -n 2 -m "not slow"

bench: install
	$(BIN)/textrl speed

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports

tests:
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal

wheel:
	$(BIN)/python tests/wheel_check.py
