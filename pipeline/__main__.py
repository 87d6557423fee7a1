"""`python -m pipeline VERB`: the same as the command `vidtok-pipeline`."""

import sys

from pipeline.commands import app, main

__all__ = ["app"]

if __name__ == "__main__":
    sys.exit(main())
