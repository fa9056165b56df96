# `make demo` shows the whole method on phantoms, `make demo PRETRAINED=1` in two to three minutes without training;
# `make test` runs the tests. Both set up .venv first.
# `make results` and `make help` write docs/RESULTS.md and docs/help anew.

PYTHON ?= python3
DATASET ?= brats
PRETRAINED ?=
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo compare test lint results help clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(RUN) scripts/demo.py --dataset $(DATASET) $(if $(PRETRAINED),--pretrained)

compare: $(VENV)/.installed
	$(RUN) scripts/compare_demo.py --dataset $(DATASET)

# Two processes of one thread each: small tests gain nothing from more threads.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

results: $(VENV)/.installed
	$(RUN) docs/render_results.py

help: $(VENV)/.installed
	$(RUN) docs/render_help.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and f"Python {v[0]}.{v[1]} found; 3.10 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN) -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
