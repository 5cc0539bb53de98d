# make train: the main job on the bundled sample, offline.   make lint: ruff and mypy.   make test: the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAMPLE := runs/sample
TUNED := models/python-reference

.PHONY: train test lint clean

# All 300 questions choose, in folds: 78 of them in a file of their own could hardly tell the gain from luck.
train: $(VENV)/.installed
	$(BIN)/python scripts/sample.py --out $(SAMPLE)
	$(BIN)/python scripts/train.py --train $(SAMPLE)/train.json --corpus $(SAMPLE)/corpus.json \
		--base bundled --time-budget 40m --out $(TUNED) --zip
	$(BIN)/python scripts/check_retrieval.py --baseline bundled --tuned $(TUNED) --data $(SAMPLE)/test.json \
		--corpus $(SAMPLE)/corpus.json --json runs/check.json --report runs/check.html
	$(BIN)/python scripts/show_search.py --baseline bundled --tuned $(TUNED) --data $(SAMPLE)/test.json \
		--corpus $(SAMPLE)/corpus.json

# Two at a time with a thread each: threads that wait for one another on a busy core make a step ten times as slow.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first: the pin is the build without CUDA where the index has one, and an unpinned one brings gigabytes.
$(VENV)/.installed: pyproject.toml .constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs models build *.egg-info .mypy_cache .pytest_cache .ruff_cache
