# Everything runs in .venv, made from the lock file: `make demo` and `make test` need only Python >= 3.11 and pip.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.from-lock
# Compiled XLA programs are kept here between runs; deleting it is always safe.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax

.PHONY: demo test test-slow bench gpu-check lint format docs lock clean

demo: $(STAMP)
	$(BIN)/scalesim design --context 128K --target-loss 2.615 --lattice paper --lattice buildable --plot out/demo.png

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(STAMP)
	$(BIN)/pytest -n 2 -m slow --durations=10

# The quick form of every benchmark, into experiments/results; peers where SCALESIM_PEERS_PYTHON has them.
bench: $(STAMP)
	$(BIN)/python -m experiments.benchmarks

# On a GPU: training, decode, constants, search and sweep beside what is promised, kept in out/gpu_check.csv.
gpu-check: $(STAMP)
	$(BIN)/python -m experiments.benchmarks.gpu_check

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, into out/site: no link or reference may be broken.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Needs uv. Both files hold the same versions; a test compares them.
lock:
	uv lock
	uv export --quiet --frozen --all-groups --no-emit-project --no-header --output-file requirements.lock

clean:
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache out
