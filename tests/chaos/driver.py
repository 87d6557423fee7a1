"""The corpus job with saboteurs in it: `tests/chaos/driver.py SETTINGS`."""

import sys

from pipeline.commands import main
from tests.chaos.saboteurs import install

if __name__ == "__main__":
    install()
    sys.exit(main(["tokenize", sys.argv[1]]))
