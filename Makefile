# make demo   set everything up and run the main job on simulated data
# make test   set everything up and run every check and test
# make quick  the fast subset, for daily use
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := $(CURDIR)/$(VENV)/kernels
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test quick lint format constraints clean

demo: $(VENV)/.installed
	$(BIN)/lima2 demo

# The OpenCL tests run twice on one kernel cache: what was compiled must also be right when it is loaded again.
test: lint
	rm -rf $(KERNELS)
	POCL_CACHE_DIR=$(KERNELS) $(BIN)/python -m pytest
	POCL_CACHE_DIR=$(KERNELS) $(BIN)/python -m pytest tests/processing

quick: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/python -m pytest -m "not slow" -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), but Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --group dev
	@touch $@

# Pin what is installed now, after a deliberate upgrade.
constraints: $(VENV)/.installed-dev
	@echo '# Versions that the tests ran with, on every supported Python. Made by: make constraints' > constraints.txt
	@$(PIP) freeze --exclude-editable | grep -viE '^(pip|setuptools|wheel)==' >> constraints.txt

clean:
	rm -rf $(VENV) build dist
