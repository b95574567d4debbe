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

# Two files at a time, each by one process from its first test to its last. Lessons that train long come first, so that both
# processes end together; of two lessons, each has half of the cores.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
TRAIN = $(wildcard solutions/09* solutions/1[123]* solutions/05*)
LESSONS = $(TRAIN) $(filter-out $(TRAIN),$(wildcard solutions/*_*))
HALF = $$($(BIN)/python -c "import os; print(max(1, (os.cpu_count() or 2) // 2))")

test: $(READY)
	$(PYTEST) tests
	COURSEKIT_QUIET=1 COURSEKIT_CHECKPOINTS=0 OMP_NUM_THREADS=$(HALF) $(PYTEST) --nbval $(LESSONS)

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
