"""Train a tokenizer: `python jobs/train_tokenizer.py CONFIG [KEY=VALUE]...`.

The same as `python -m pipeline train`, also from a checkout that is not installed.
"""

import sys

from run_verb import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("train"))
