"""The command line: `vidtok-pipeline VERB`, also `python -m pipeline VERB`."""

from pipeline.commands.root import app, main

__all__ = ["app", "main"]
