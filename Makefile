# `make demo` shows the suite at work; `make test` checks it. Both install what they need into .venv.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo demo-epochs test test-lowest docs bench-compare install constraints clean

demo: $(VENV)/.all
	$(BIN)/analyse-strength --demo

demo-epochs: $(VENV)/.all
	$(BIN)/analyse-epochs --demo

# Chromium, its driver and axe-core are installed where that may be done; what was skipped, and why,
# stands at the end.
test: $(VENV)/.test
	tests/browser.sh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -rs

# The lowest versions that pyproject.toml promises, in an environment of their own. Where
# huggingface-hub is free to be new, uv takes newer diffusers and transformers than the promised ones.
# Old versions warn of each other, so their warnings are no errors here.
test-lowest: $(VENV)/.lowest
	tests/browser.sh
	$(VENV)-lowest/bin/python -m pytest -n 2 -rs -W default

docs: $(VENV)/.test
	$(BIN)/sphinx-build --quiet --fail-on-warning docs site

# Compares benchmarks/results with the last committed ones.
bench-compare: $(VENV)/.all
	$(BIN)/python benchmarks/compare.py

install: $(VENV)/.all

$(VENV)/.all: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[all]'
	touch $@

$(VENV)/.test: $(VENV)/.all
	$(INSTALL) --editable '.[all,test]'
	touch $@

$(VENV)/.lowest: pyproject.toml $(VENV)/.all
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct \
	    --editable '.[all,test]' 'huggingface-hub<2'
	touch $@

# Names and versions only: whoever installs has an index, and torch pins what nvidia's cards need.
constraints: $(VENV)/.all
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras \
	    --no-header --no-annotate --output-file $(VENV)/compiled.txt pyproject.toml
	{ grep '^#' constraints.txt; grep -vE '^(nvidia|cuda|triton)' $(VENV)/compiled.txt | \
	    awk -F '[ =]' '{ line[NR] = $$0; name[NR] = $$1; seen[$$1]++ } END { for (i = 1; i <= NR; i++) { \
	    if (seen[name[i]] == 1) sub(/ ;.*/, "", line[i]); print line[i] } }'; } >$(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-lowest runs site
