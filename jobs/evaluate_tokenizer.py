"""Evaluate tokenizers: `python jobs/evaluate_tokenizer.py [CONFIG] [KEY=VALUE]...`.

The same as `python -m pipeline evaluate`, also from a checkout that is not installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.commands import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
