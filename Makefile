# Six commands, each of which sets up what it needs: python3 (3.11 or newer) and make are enough.
#
#   make demo    draw a few thousand small pictures, learn from them, and show what was learnt
#   make explore look at the demo's pictures in a browser
#   make test    what continuous integration runs: ruff, mypy, pytest
#   make test-long   the tests that drive a browser or take more than half a minute
#   make wheel   build the wheel, install it in a clean environment and try it
#   make docs    build the documentation into site/
#   make lint    ruff and mypy alone
#
# `make PYTHON=python3.12 demo` picks the interpreter; `make clean` removes what these made.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEMO ?= demo

.PHONY: demo explore test test-long wheel docs lint clean setup

demo: $(STAMP)
	@echo "== demo: about five minutes on two cores; everything goes to $(DEMO)/"
	$(BIN)/nearfar demo --out $(DEMO)

explore: $(STAMP)
	@test -d $(DEMO)/run || { echo "there is no $(DEMO)/run yet; type: make demo"; exit 2; }
	$(BIN)/nearfar embed $(DEMO)/run $(DEMO)/photos --store $(DEMO)/photos.nf
	$(BIN)/nearfar explore $(DEMO)/photos.nf

test: lint
	@echo "== tests"
	$(BIN)/python -m pytest

test-long: $(STAMP)
	@echo "== the tests that take long, one after another"
	$(BIN)/python -m pytest -m long -n 1

wheel: $(STAMP)
	@.ci/wheel

lint: $(STAMP)
	@echo "== ruff and mypy"
	$(BIN)/ruff check .
	$(BIN)/mypy nearfar

docs: $(STAMP)
	@echo "== documentation into site/"
	$(BIN)/mkdocs build --strict --quiet

setup: $(STAMP)

# The stamp is newer than the lock and the project file when the environment is up to date, so a second
# `make` starts at once. The lock pins every package by hash; uv only makes the installation quick.
$(STAMP): requirements.lock pyproject.toml
	@echo "== setting up $(VENV) with $(PYTHON) (the first time downloads PyTorch, which takes a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nearfar needs Python 3.11 or newer; say which with: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
