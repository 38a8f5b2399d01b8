# make test, make test-all, make check, make demo: each sets up .venv by itself, and again only when what it depends on has changed.
#
# PyTorch on Linux brings gigabytes for GPUs. Where there is none, let pip find its CPU build, for example with
# PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS; every setting of pip in the environment is heeded.

PYTHON ?= python3
MINUTES ?= 5
DEMO ?= demo
INPUTS ?= 60

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: help demo fuzz test test-all test-random faults check docs

help:
	@echo "make demo    fit a sentiment classifier on 38,158 tweets (MINUTES=$(MINUTES)) and try it"
	@echo "make test    the tests, without those that take long"
	@echo "make test-all       all tests"
	@echo "make test-random    the tests of properties, on other examples each time"
	@echo "make faults  tiny runs that are killed, limited and robbed of their folder, and finish all the same"
	@echo "make fuzz    damaged and hostile inputs, INPUTS of each kind"
	@echo "make check   style, types, generated pages"
	@echo "make docs    write docs/cli.md, docs/stages.md and the type stub"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or later is needed; name one with: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt $(TORCH)
	$(PIP) install --quiet -c constraints.txt -e '.[train,gguf,compressed-tensors,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/halfpint pull all-minilm-l6-v2
	data="$$($(BIN)/python examples/tweets.py)" && $(BIN)/halfpint fit "$$data" --text text --label sentiment \
		--max-size 25MB --minutes $(MINUTES) --out $(DEMO) --force
	$(BIN)/halfpint predict $(DEMO)/best \
		"the update fixed everything, best phone I ever had" \
		"third time the delivery is late and nobody answers" \
		"the store opens at nine on Monday"

PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile

test: $(READY)
	$(PYTEST) --durations=10 -m "not slow"

test-all: $(READY)
	$(PYTEST) --durations=10

test-random: $(READY)
	HALFPINT_EXAMPLES=random $(PYTEST) -m hypothesis

faults: $(READY)
	$(BIN)/python tests/faults/harness.py

fuzz: $(READY)
	HALFPINT_FUZZ=$(INPUTS) $(PYTEST) tests/fuzz

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src docs/generate.py examples/tweets.py
	$(BIN)/python docs/generate.py --check

docs: $(READY)
	$(BIN)/python docs/generate.py
