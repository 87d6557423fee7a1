"""The corpus job with saboteurs in it: `python -m tests.chaos.driver SETTINGS`."""

import sys

from pipeline.commands import tokenize
from tests.chaos.saboteurs import install

if __name__ == "__main__":
    install()
    sys.exit(tokenize(sys.argv[1]))
