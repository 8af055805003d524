# make demo · make test · make smoke · make lint · make bench · make docs · make requirements
.DEFAULT_GOAL := help
PY := .venv/bin/python
WB := .venv/bin/workbench
SOURCES ?= var/sources
MEMBERS ?= 20000

.PHONY: help demo test smoke lint bench docs requirements clean
help: ## what there is to make
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 16

demo: ## the whole workbench on synthetic data: ends with a URL and the demo users
	@scripts/bootstrap workbench
	@$(WB) up --demo --members $(MEMBERS)

test: ## set everything up and run all tests
	@scripts/bootstrap dev
	@$(PY) -m pytest

smoke: ## what a visitor would do, headless, with a one-page summary
	@scripts/bootstrap dev
	@$(PY) scripts/smoke.py

lint: ## style, types, import contracts
	@scripts/bootstrap dev
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

bench: ## the benchmarks, into benchmarks/results and docs/performance.md
	@scripts/bootstrap dev
	@$(PY) -m benchmarks

docs: ## write the generated pages
	@scripts/bootstrap dev
	@$(PY) scripts/generate_docs.py

requirements: ## resolve requirements/*.in anew
	@for s in bootstrap workbench dev; do .uv/bin/uv pip compile -q --upgrade --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 requirements/$$s.in -o requirements/$$s.txt; done

clean: ## remove everything that the targets made
	rm -rf .venv .uv var .pytest_cache .mypy_cache .ruff_cache benchmarks/results
