# Every target does its own set-up in .venv. PYTHON: any Python from 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
MODELS ?= mtd-q5-m3-t32/trained-disentangled-3l-s0 mtd-q5-m3-t32/trained-attn-only-3l-s0
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.docs-ready
LOWEST := .venv-lowest
RELEASED := build/released
# What test-lowest runs; .ci/run names a part in which every library that the package needs is used.
LOWEST_TESTS ?= tests
# What test-slow runs; .ci/run names a part that fits its time.
SLOW_TESTS ?= tests
TL4 := .venv-tl4
TL4_TESTS ?= tests

.PHONY: demo test test-slow test-lowest lowest test-tl4 tl4 lint bench results notebooks pictures docs release clean

demo: $(READY)
	@echo 'Two trained models, held against one step of mirror descent: what swaps of each quantity do.'
	$(BIN)/mtd-lens score $(MODELS) --json report.json --html report.html
	@echo
	@echo 'What to look at. In A, whose layers the paper gives their parts: rows that end in interchange,'
	@echo '1 where the output changes as the algorithm says. In B, a stock transformer that predicts about'
	@echo 'as well: rows that end in given_query, the same where the last tokens of the context are equal.'

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope -m "not slow"

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope -m slow $(SLOW_TESTS)

# With the lowest versions that pyproject.toml allows, but for torch. Old releases may use what newer
# ones of their own requirements deprecate.
test-lowest: $(LOWEST)/.ready
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n 2 --dist loadscope -m "not slow" \
		-W default::DeprecationWarning $(LOWEST_TESTS)

# Resolves those versions again, after a change of pyproject.toml; needs uv.
lowest:
	grep '^torch==' constraints.txt | uv pip compile --quiet pyproject.toml --extra dev --constraint - \
		--resolution lowest-direct --python-version 3.11 --no-annotate \
		--custom-compile-command "make lowest" --output-file constraints-lowest.txt

# With transformer-lens 4, where the HookedTransformer is our own; every other version is the same.
test-tl4: $(TL4)/.ready
	OMP_NUM_THREADS=1 $(TL4)/bin/python -m pytest -q -n 2 --dist loadscope -m "not slow" $(TL4_TESTS)

# Pins what constraints.txt pins, but for transformer-lens.
tl4:
	sed -e 's/^transformer-lens==.*/transformer-lens==4.3.0/' \
		-e '1s/.*/# Made from constraints.txt by "make tl4"./' constraints.txt > constraints-tl4.txt

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python tests/benchmarks/run.py
	$(BIN)/python tests/benchmarks/training.py
	$(BIN)/python tests/benchmarks/patching.py
	$(BIN)/python tests/benchmarks/hooked.py
	$(BIN)/python tests/benchmarks/dashboards.py

results: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tutorials.site.results

notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tutorials.site.notebooks

pictures: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tutorials.site.pictures

# The variable silences a notice of mkdocs-material about other projects.
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Builds what would be uploaded, checks it, and stops there; RELEASED is the wheel in an environment of its own.
release: lint docs
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[release]"
	rm -rf dist $(RELEASED)
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(RELEASED)
	$(RELEASED)/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	cd $(RELEASED) && bin/mtd-lens --version && bin/mtd-lens score $(MODELS) --quick --html report.html
	@echo 'dist/ holds what would be uploaded: .venv/bin/twine upload dist/*'

$(READY): pyproject.toml constraints.txt
	@echo 'Setting up .venv, once: torch, transformer-lens and what else is pinned; minutes, most of them downloads.'
	@$(PYTHON) -c 'import sys; sys.exit("mtd-lens needs Python 3.11 or later; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

$(DOCS_READY): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --constraint constraints-lowest.txt --editable ".[dev]"
	touch $@

$(TL4)/.ready: pyproject.toml constraints-tl4.txt
	$(PYTHON) -m venv $(TL4)
	$(TL4)/bin/pip install --quiet --constraint constraints-tl4.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv $(LOWEST) $(TL4) build dist report.json report.html
