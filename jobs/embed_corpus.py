"""Embed the captions of a dataset: `python jobs/embed_corpus.py CONFIG [KEY=VALUE]...`.

The same as `python -m pipeline embed`, also from a checkout that is not installed.
"""

import sys

from run_verb import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("embed"))
