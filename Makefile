# Every target builds .venv if it is missing or older than requirements.lock or pyproject.toml. Needed: Python 3.11 or
# newer, make and git.
PYTHON ?= python3
BIN := .venv/bin
PINNED = $(shell sed -n 's/^\([^ =]*\)==.*/\1/p' requirements.lock)

.PHONY: demo test test-all lint format bench docs notebooks dist sbom lock licences

demo: .venv/ready
	$(BIN)/lbae demo

test: .venv/ready
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/audit.py

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/ready
	$(BIN)/python -m pytest -s --override-ini=addopts= tests/benchmarks

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Each notebook runs for some minutes and is stored with what it shows.
notebooks: .venv/ready
	$(BIN)/python -m docs.generate.run_notebooks docs/notebooks/*.ipynb

dist: .venv/ready
	rm -rf dist
	$(BIN)/uv build --offline --no-build-isolation --python $(BIN)/python --out-dir dist

# What requirements.lock pins, with versions and hashes, in CycloneDX's format.
sbom: .venv/ready
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file dist/lbae.cdx.json requirements.lock

lock: .venv/ready
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes pyproject.toml --output-file requirements.lock

licences: .venv/ready
	printf '# Licences\n\nThe licences of all packages that requirements.lock pins, as the packages state them. Written by `make licences`.\n\n' > docs/licences.md
	$(BIN)/pip-licenses --from=mixed --with-system --no-version --format=markdown --packages $(PINNED) >> docs/licences.md

.venv/ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --require-hashes --requirement .venv/uv.txt
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@
