# A newcomer needs two commands: `make demo` and `make test`. Each creates .venv on its first run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
STAMP := $(VENV)/.installed
DOCS ?= examples/documents
# Tests run in so many processes, each taking over what another has left.
WORKERS ?= auto
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal
# Tests start many processes, which would all compile the package anew where the environment keeps Python from caching.
export PYTHONDONTWRITEBYTECODE =

.PHONY: docs help install demo test test-full test-lowest lint format bench-encoder bench-storage bench-quality bench-rerank clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## create .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt embedders/forward/_native.c embedders/forward/int8.h
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,examples]'
	@touch $@

demo: $(STAMP) ## index DOCS (default: the handbook) through both frameworks, ask, and show what each technique changes
	@$(BIN)/python -m examples.demo $(DOCS)

test: $(STAMP) lint ## lint and the whole test suite
	$(PYTEST)

test-full: $(STAMP) lint ## the same with the long forms of the fault and conformance suites
	SITUATE_FULL=1 $(PYTEST)

test-lowest: ## the whole test suite with the lowest versions that pyproject.toml allows (a venv of its own, gigabytes)
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --link-mode copy --resolution lowest-direct -e '.[dev]'
	$(LOWEST)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal -W default

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p situate
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## the documentation as a site, in build/site
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench-encoder: $(STAMP) ## encoder speed against what users use today
	$(BIN)/python -m benchmarks.encoder

bench-storage: $(STAMP) ## embedded storage against qdrant-client's local mode
	$(BIN)/python -m benchmarks.storage

bench-quality: $(STAMP) ## retrieval quality of the presets; DATA=folder of JSON Lines sets
	$(BIN)/python -m benchmarks.quality $(DATA)

bench-rerank: $(STAMP) ## reranker speed
	$(BIN)/python -m benchmarks.rerank

clean: ## remove everything that the other targets made
	rm -rf $(VENV) $(LOWEST) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
