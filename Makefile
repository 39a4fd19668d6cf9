# The two commands of a newcomer: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := # more options for the demo's training, as in: make demo DEMO="--trainer.max_steps 50"

.PHONY: demo test lint bench-env clean

demo: $(VENV)/.installed
	$(BIN)/python xlab.py fit $(DEMO)
	$(BIN)/python infer.py "$$(ls -td logs/version_* | head -n 1)" "The " --limit 100 --seed 1
	$(BIN)/python manage.py export-checkpoint "$$(ls -td logs/version_* | head -n 1)"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

bench-env: .bench-venv/.installed

.bench-venv/.installed: requirements-bench.txt
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	touch $@

clean:
	rm -rf $(VENV) .bench-venv .cache
