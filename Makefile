# Paths are relative and tools run as modules: console scripts break in a folder whose name has a space.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Wheels only, so that a missing wheel is one clear line and never an attempt to compile.
INSTALL := $(PY) -m pip --disable-pip-version-check install --only-binary :all: --constraint constraints.txt
PYTEST := $(PY) -m pytest
# Two processes, a file in one of them: what tests of one file share is made once.
APART := -n 2 --dist loadfile
SWEEP := tests/architectures/sweep/requirements.txt
ARGS ?=

.PHONY: help demo test slow bench sweep lint docs venv clean

help:
	@echo "make demo    train, align and compare two small vision models (ARGS=... go to symgraph demo)"
	@echo "make test    run the test suite (ARGS=... go to pytest)"
	@echo "make slow    run the slow tests"
	@echo "make bench   run the benchmarks"
	@echo "make sweep   models of timm, diffusers and others through every stage; installs them (ARGS=... go to the sweep)"
	@echo "make lint    style, format and types"
	@echo "make docs    the documents as a site, in build/site"
	@echo "make venv    make the environment $(VENV) with everything the targets above need"
	@echo "make clean   remove $(VENV), caches and built packages"
	@echo "PYTHON=...   which Python (3.11 or newer) makes the environment; now: $(PYTHON)"

demo: $(VENV)/.installed
	$(PY) -m symgraph demo $(ARGS)

test: $(VENV)/.installed-test
	$(PYTEST) $(APART) $(ARGS)

slow: $(VENV)/.installed-test
	$(PYTEST) $(APART) -m slow $(ARGS)

bench: $(VENV)/.installed-test
	$(PYTEST) -m benchmark -s $(ARGS)

sweep: $(VENV)/.installed-sweep
	$(PY) -m tests.architectures.sweep --third-party $(ARGS)

lint: $(VENV)/.installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: $(VENV)/.installed-docs
	$(PY) -m mkdocs build

venv: $(VENV)/.installed-test

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is written last, so an interrupted installation starts again where it stopped.
$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || { echo "error: no Python called $(PYTHON); install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "error: symgraph needs Python 3.11 or newer, but " + sys.executable + " is " + "%d.%d" % v[:2] + "; name a newer one: make PYTHON=/path/to/python3.11")'
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

# The build backend is installed first and used from here, so that its version is constrained as well.
$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --no-build-isolation --editable ".[test]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-test
	$(INSTALL) --no-build-isolation --editable ".[docs]"
	@touch $@

$(VENV)/.installed-sweep: $(VENV)/.installed-test $(SWEEP)
	$(PY) -m pip --disable-pip-version-check install --no-deps --requirement $(SWEEP)
	@touch $@
