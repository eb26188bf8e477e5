# `make demo` shows the suite at work; `make test` checks it. Both install what they need into .venv.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo demo-epochs test check install clean

demo: $(VENV)/.all
	$(BIN)/analyse-strength --demo

demo-epochs: $(VENV)/.all
	$(BIN)/analyse-epochs --demo

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

install: $(VENV)/.all

$(VENV)/.all: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $@

$(VENV)/.test: $(VENV)/.all
	$(BIN)/python -m pip install --quiet --editable '.[all,test]'
	touch $@

clean:
	rm -rf $(VENV) runs
