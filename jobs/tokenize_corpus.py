"""Tokenize a corpus: `python jobs/tokenize_corpus.py CONFIG [KEY=VALUE]...`.

The same as `python -m pipeline tokenize`, also from a checkout that is not installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.commands import main

if __name__ == "__main__":
    sys.exit(main(["tokenize", *sys.argv[1:]]))
