"""The command line's root: global options, and how it is run."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pipeline.commands import jobs, look, maintenance  # noqa: F401 (they register their verbs)
from pipeline.commands.verb import app
from pipeline.logs import Level, configure_logging


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="The same as --log-level INFO.")
    ] = False,
    log_level: Annotated[
        Level,
        typer.Option(
            envvar="VIDTOK_LOG_LEVEL",
            case_sensitive=False,
            help="Lowest level of the log on stderr.",
        ),
    ] = Level.WARNING,
) -> None:
    """Turn a corpus of video into VidTok tokens and latents, and look after the dataset.

    Results go to stdout, errors and the log to stderr.

    Exit codes: 0 success; 1 something is wrong with the data or a store; 2 the command or the
    configuration is wrong; 130 interrupted.
    """
    configure_logging(Level.INFO if verbose and log_level == Level.WARNING else log_level)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit code.

    Args:
        arguments: verb, options and arguments; None takes those of the process.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(args=given, prog_name="vidtok-pipeline")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    raise AssertionError("a verb ends with an exit code")
