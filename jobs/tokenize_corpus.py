"""Tokenize a corpus: `python jobs/tokenize_corpus.py CONFIG [key=value …]`.

Runs against the cluster that RAY_ADDRESS names, or `ray start` started here, else on this machine;
also under `ray job submit --working-dir . -- python jobs/tokenize_corpus.py CONFIG`. Exit codes: 0
every unit is committed and everything adds up, 1 not so, 2 the configuration is wrong.
"""

import sys
from pathlib import Path

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.commands import tokenize


def main(arguments: list[str]) -> int:
    """Return the exit code of the job."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    config, *overrides = arguments
    return tokenize(config, overrides)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
