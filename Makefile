PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test suite lint schemas clean

demo: $(STAMP)  ## Tokenize the bundled videos and draw original beside decoded frames.
	$(BIN)/python jobs/tokenize_corpus.py examples/demo.yaml
	$(BIN)/python -m pipeline show out/demo --picture out/demo/decoded.png

test: $(STAMP)  ## Lint, types, and the whole suite, side by side.
	$(MAKE) -j2 lint suite

suite: $(STAMP)  ## The tests alone.
	$(BIN)/python -m pytest -n auto

lint: $(STAMP)  ## Style, types, the import contract, spelling and words.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/words.py

schemas: $(STAMP)  ## Write docs/schema again, after a change of the settings.
	for kind in job embed train evaluate; do \
		$(BIN)/python -m pipeline schema $$kind > docs/schema/$$kind.json || exit 1; \
	done

# One pip call: a second one may lift a transitive pin (botocore) past what s3fs allows.
# pip compiles all modules one after another, for a minute of CPU; Python keeps those it imports.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) out
