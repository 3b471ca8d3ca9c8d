# lca_md: every command of the project. Needs GNU make and Python >= 3.11; everything else goes into .venv.
# `make` alone lists the commands.
SHELL   := /bin/bash
PYTHON  ?= python3
VENV    := .venv
PY      := $(VENV)/bin/python
# Two test workers with one thread each are faster than one worker with two threads (and never oversubscribe a small machine).
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PACKAGING := setup.py settings.ini pyproject.toml
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo install install-dev test test-site coverage bench study export site explorer serve lab diff table fresh lint clean

help: ## list the commands
	@echo "lca_md: weakly supervised object localization, a book in notebooks and a package"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: install ## draw birds, train TS-CAM and LCA-MD, evaluate both; results in runs/demo/
	$(VENV)/bin/lca-md demo $(ARGS)

install: $(VENV)/.installed ## create .venv and install the package into it (once)

install-dev: $(VENV)/.installed-dev ## the same, with the tools for tests, site and notebooks

test: install-dev ## run every test: chapters, modules, run notebooks, packaging, repository
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

coverage: install-dev ## the tests again, with the share of lca_md/ that chapters and tests execute (htmlcov/)
	$(ONE_THREAD) LCA_COVER_CELLS=1 $(PY) -m pytest -n $(WORKERS) --dist loadgroup --cov --cov-report=term --cov-report=html $(ARGS)

bench: install-dev ## speed and memory, as ratios measured in one run
	@set -e; for f in benchmarks/*.py; do echo "== $$f"; $(PY) "$$f"; done

study: install-dev ## train every row of chapter 36 (DATA=photographs in CUB layout, WEIGHTS=ImageNet DeiT-Tiny), then collect
	$(PY) tools/study.py --data "$(DATA)" --weights "$(WEIGHTS)" $(ARGS)

export: install-dev ## write lca_md/ from the notebooks and strip the notebooks' metadata
	$(PY) tools/nb.py export

lint: install-dev ## style checks of package, tests and tools
	$(PY) -m ruff check lca_md tests tools benchmarks setup.py

site: install-dev ## build the book's website into _site/
	$(PY) tools/website.py build

explorer: install-dev ## make the threshold explorer's data anew (after a change of the shipped weights)
	$(PY) tools/explorer.py

test-site: install-dev ## the website's tests, in a real browser too (needs Chromium and npm)
	$(PY) -m pip install --disable-pip-version-check -q 'playwright>=1.50'
	npm install --prefix build/browser --no-save --no-audit --no-fund --silent axe-core@4
	$(ONE_THREAD) $(PY) -m pytest -rs tests/test_site.py tests/test_site_browser.py $(ARGS)

serve: install-dev ## build the website and show it at a local address (PORT=8000)
	$(PY) tools/website.py serve --port $(or $(PORT),8000)

lab: install-dev ## open the book in JupyterLab, each notebook with a text twin in build/text/
	@mkdir -p build/text
	$(PY) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs/index.ipynb $(ARGS)

diff: install-dev ## readable diff of the changed notebooks, without outputs (REF=main)
	@$(PY) tools/review.py $(or $(REF),HEAD)

table: install-dev ## cells, pictures, words and tests of each chapter, against the book's style
	@$(PY) tools/nb.py table

fresh: install-dev ## execute the notebooks in a copy and compare every output with the committed one (ARGS="train --tolerance 1e-3")
	@$(PY) tools/nb.py fresh $(ARGS)

clean: ## remove what the commands above generated (not .venv, not runs/, not data/)
	rm -rf build dist _proc _docs _site htmlcov .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis *.egg-info
	find lca_md tests tools benchmarks nbs \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(PY):
	@command -v $(PYTHON) >/dev/null || { echo "error: '$(PYTHON)' not found. Install Python 3.11 or newer, or say which one: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version 2>&1) is too old. lca_md needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: '$(PYTHON) -m venv' failed. On Debian and Ubuntu install the package python3-venv, then try again."; exit 2; }

$(VENV)/.installed: $(PACKAGING) | $(PY)
	@echo "Installing lca_md into $(VENV) (the first time this fetches PyTorch: several minutes)"
	$(PY) -m pip install --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(PACKAGING) | $(PY)
	@echo "Installing lca_md and its development tools into $(VENV) (the first time this fetches PyTorch: several minutes)"
	$(PY) -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.installed $@
