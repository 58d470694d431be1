# Every command of the project. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup quickstart run test browser check check-deploy check-images faults format e2e bench openapi docs clean

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv and install everything with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version`. Name another: make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute or two the first time) ..."
	@$(PIP) torch
	@$(PIP) -e '.[dev]'
	@touch $@

quickstart: setup ## the whole loop on real text: data, teacher, students, report, predictions
	@$(BIN)/understudy quickstart $(ARGS)

run: setup ## the local stack until Ctrl-C
	@$(BIN)/understudy up $(ARGS)

test: setup ## every test that needs no accelerator
	@$(BIN)/pytest -n 2 --dist worksteal -m "not (slow and e2e)" $(ARGS)

faults: setup ## what breaks and what must hold then, the slow ones too: killed processes, full disks, lying teachers
	@$(BIN)/pytest tests/faults $(ARGS)

e2e: setup ## only the tests that start the real services as processes
	@$(BIN)/pytest -m e2e $(ARGS)

check: setup ## format, lint, types, import rules, committed OpenAPI documents; no test is run
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > /dev/null || { $(BIN)/lint-imports --no-cache; exit 1; }
	@$(BIN)/python -m services.openapi --check

$(VENV)-deploy/.installed: k8s/requirements.txt
	@$(PYTHON) -m venv $(VENV)-deploy
	@$(VENV)-deploy/bin/pip install --quiet --disable-pip-version-check -r k8s/requirements.txt
	@touch $@

check-deploy: $(VENV)-deploy/.installed ## images, compose file and k8s/ as far as they can be checked without building anything
	@$(VENV)-deploy/bin/python k8s/check.py

check-images: setup ## where docker or podman is: build the images, start docker-compose.yml, run a job there
	@$(BIN)/python k8s/images.py $(ARGS)

format: setup ## rewrite the code as `make check` wants it
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

openapi: setup ## rewrite the committed OpenAPI documents in docs/openapi
	@$(BIN)/python -m services.openapi

# Material prints why MkDocs 1 is a dead end on every build; docs/decisions/0013-documentation.md has read it.
docs: export NO_MKDOCS_2_WARNING = 1
docs: setup ## build the documentation's site into build/docs; `make docs ARGS=serve` shows it while you write
	@$(BIN)/python docs/generate
	@$(BIN)/mkdocs $(or $(ARGS),build --strict --quiet)

browser: setup ## the dashboard in a real browser, the slow walk through a whole stack too
	@$(BIN)/pytest tests/dashboard $(ARGS)

bench: setup ## measure, into benchmarks/results
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean: ## remove what the commands have made
	rm -rf $(VENV) $(VENV)-deploy .understudy build *.egg-info .mypy_cache .pytest_cache .ruff_cache
