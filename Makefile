# Set-up and the everyday commands. Each needs Python 3.11+, make and a network that reaches PyPI.
PYTHON ?= python3
CORES ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed
# The uv on the PATH, else one that is installed into the venv.
UV := $(or $(shell command -v uv),$(BIN)/uv)

.PHONY: setup demo test test-fast lint ui bench lock clean

setup: $(INSTALLED)  ## .venv alone; the others do it first

demo: $(INSTALLED)  ## train, evaluate and compare three Dice losses on the embedded images
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete --scheduler greedy

# One thread for each worker. Jobs are processes that would each compile the package again.
test test-fast: export OMP_NUM_THREADS = 1
test: $(INSTALLED)  ## the tests; those on real data want LOSSBENCH_DATA
	$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

test-fast: $(INSTALLED)  ## the tests that start no process and take no seconds
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder -m "not slow"

lint: $(INSTALLED)  ## ruff, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

ui: $(INSTALLED)  ## the MLflow UI on 127.0.0.1, over the store that `track` writes
	$(BIN)/python -m lossbench ui

bench: $(INSTALLED)  ## what things cost, and the error rates of the comparisons: results/benchmarks; hours
	$(BIN)/python -m benchmarks.training --output results/benchmarks
	$(BIN)/python -m benchmarks.startup --output results/benchmarks
	$(BIN)/python -m benchmarks.hours_per_verdict --output results/benchmarks
	$(BIN)/python -m benchmarks.scaling --output results/benchmarks
	$(BIN)/python -m benchmarks.ten_thousand_runs --output results/benchmarks
	$(BIN)/python -m benchmarks.tracking --output results/benchmarks
	$(BIN)/python -m benchmarks.error_rates --output results/benchmarks
	test -z "$$LOSSBENCH_DATA" || $(BIN)/python -m benchmarks.nnunet \
	    --data "$$LOSSBENCH_DATA/Task04_Hippocampus" --output results/benchmarks
	$(BIN)/python -m benchmarks.table results/benchmarks

lock: $(INSTALLED)  ## requirements.lock from pyproject.toml
	$(UV) pip compile pyproject.toml --group dev --universal --generate-hashes --no-annotate --no-header --output-file requirements.lock

clean:  ## remove the environment; results stay
	rm -rf .venv

# Byte-compiled: imports are half of a short job's time.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lossbench needs Python 3.11 or newer; say which with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	command -v $(UV) >/dev/null || $(BIN)/python -m pip install --quiet uv
	$(UV) pip sync --quiet --python $(BIN)/python --compile-bytecode requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@
