# Each target works alone on a fresh clone: it makes .venv and installs what is missing, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# JupyterLab refuses to start for root without being told.
LAB_OPTIONS ?= $(if $(filter 0,$(shell id -u)),--allow-root)
# Idle threads sleep instead of spinning: other processes run beside a training.
export OMP_WAIT_POLICY = passive

.PHONY: lab grade test build bench clean help

help:
	@echo "make lab     open the course in JupyterLab"
	@echo "make grade   grade the bundled sample class, print where the report lies"
	@echo "make test    every test, then every solution notebook"
	@echo "make build   lesson sources -> notebooks of solutions/ and course/"
	@echo "make bench   measure speed beside other software; the tables go to README.md"

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=course $(LAB_OPTIONS)

grade: $(READY)
	$(BIN)/autograder grade --sample

test: $(READY)
	$(BIN)/python -m pytest tests
	COURSEKIT_QUIET=1 COURSEKIT_CHECKPOINTS=0 $(BIN)/python -m pytest --nbval solutions

bench: $(READY)
	$(BIN)/python -m pytest tests/bench --save tests/bench/results; code=$$?; $(BIN)/python -m tests.bench.frame; exit $$code

build: $(READY)
	$(BIN)/autograder build

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
