"""The command line: `vidtok-pipeline VERB`, also `python -m pipeline VERB`."""

from pipeline.commands.root import main
from pipeline.commands.verb import app

__all__ = ["app", "main"]
