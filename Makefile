# make run · test · check · fix; each sets up what it needs in .venv. On Windows: see the README.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: run test check fix golden bench

run: $(READY)
	$(BIN)/python -m app

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto --dist loadfile

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The engine against golden tensors of the original: make golden GOLDEN=path/to/golden
golden: $(READY)
	$(BIN)/python -m tests.golden $(GOLDEN)

# What the engine costs, counted and measured, as one table: make bench, or with options: make bench BENCH="--json bench.json"
bench: $(READY)
	$(BIN)/python -m tests.bench $(BENCH)

# torch first and alone: a machine without an accelerator gets the build that fits it, and nothing else chooses for it.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "torch>=2.8,<2.14"
	$(BIN)/python -m pip install --quiet --editable ".[agents,dev]"
	touch $(READY)
