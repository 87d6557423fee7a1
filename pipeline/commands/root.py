"""The command line's root: global options, and how it is run."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final

import typer

# The modules register the verbs, in the order of the help.
from pipeline.commands import first_steps, jobs  # noqa: F401

# isort: split
from pipeline.commands import inspection, maintenance  # noqa: F401
from pipeline.commands.verb import app
from pipeline.errors import EXIT_CODES
from pipeline.logs import Level, configure_logging

_PARTS: Final = ("ray", "torch", "pyarrow", "av")
"""Packages whose versions matter most when something goes wrong."""

_EXIT_CODES: Final = "\n".join(f"    - {code}: {what}" for code, what in EXIT_CODES.items())
"""List in Markdown, indented as the help text that contains it."""


def _show_versions(asked: bool) -> None:
    if asked:
        names = ("vidtok-pipeline", *_PARTS)
        versions = [f"{name} {_version(name)}" for name in names]
        print(" · ".join([*versions, f"python {platform.python_version()}"]))
        raise typer.Exit


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


@app.callback(
    help=f"""Turn a corpus of video into tokens and latents, and maintain the dataset.

    Results go to stdout. Errors and the log go to stderr.

    Exit codes:

{_EXIT_CODES}
    """
)
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Short for --log-level info.")
    ] = False,
    log_level: Annotated[
        Level,
        typer.Option(
            envvar="VIDTOK_LOG_LEVEL",
            case_sensitive=False,
            metavar="LEVEL",
            help="Lowest level of the log on stderr: debug, info, warning or error.",
        ),
    ] = Level.WARNING,
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_versions,
            is_eager=True,
            help="Print the versions of the package, of Ray, torch, PyArrow, PyAV and Python.",
        ),
    ] = False,
) -> None:
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
