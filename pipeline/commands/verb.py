"""What all verbs share: registration, errors as exit codes, printed results, common arguments."""

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, ParamSpec

import typer

from pipeline.commands.settings import Kind, completes, completes_settings
from pipeline.errors import (
    BAD_CONFIG,
    INTERRUPTED,
    UNBALANCED,
    ConfigError,
    Diverged,
    PipelineError,
    message_of,
)
from pipeline.formatting import json_text
from pipeline.logs import write_lines

if TYPE_CHECKING:
    from pipeline.job.summary import Summary
    from pipeline.operations.outcome import Outcome
    from pipeline.storage.store import Store

RUN_AGAIN: Final = "run the same command again to continue"
"""Advice after an interrupted or failed run that can be resumed."""

P = ParamSpec("P")


def settings_of(kind: Kind) -> Any:
    """Return an argument for settings that replace those of a file."""
    return typer.Argument(
        metavar="KEY=VALUE",
        help="Settings that override the file, for example output.uri=out/x.",
        autocompletion=completes_settings(kind),
    )


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # they show local variables, which can hold credentials
    context_settings={"help_option_names": ["-h", "--help"]},
)
"""The command line."""

Uri = Annotated[
    str, typer.Argument(metavar="URI", help="Dataset: a folder, or s3://bucket/prefix.")
]
Config = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file with the settings.")]
Overrides = Annotated[list[str] | None, settings_of(Kind.JOB)]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        envvar="RAY_ADDRESS",
        metavar="local|auto|ADDRESS",
        autocompletion=completes(("local", "auto")),
        help="Ray cluster to use. `local` (default) starts one on this machine. `auto` joins one"
        " that runs on this machine. HOST:PORT joins a cluster at that address.",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def amount(text: str) -> Any:
    """Return an option for a number that is not negative, with its help text."""
    return typer.Option(min=0, help=text)


def count(text: str) -> Any:
    """Return an option for a number N that is not negative, with its help text."""
    return typer.Option(min=0, metavar="N", help=text)


def named(metavar: str, text: str) -> Any:
    """Return an option for a text, with the name of its value and its help text."""
    return typer.Option(metavar=metavar, help=text)


def flag(name: str, text: str) -> Any:
    """Return an option that is on or off and has no `--no-…` form, with its help text."""
    return typer.Option(name, help=text)


def use_ray(address: str | None) -> None:
    """Let `pipeline.cluster.connect` use this Ray."""
    if address:
        os.environ["RAY_ADDRESS"] = address


def store_of(uri: str) -> "Store":
    """Return the store of a dataset. Its libraries are imported only now: `--help` stays fast."""
    from pipeline.storage.store import Store

    return Store(uri)


def print_error(text: str) -> None:
    """Print an error of one or several lines to stderr."""
    write_lines(text.split("\n"), sys.stderr)


def show(result: "Outcome | Summary", as_json: bool = False) -> int:
    """Print a result as text or JSON, and return its exit code."""
    if as_json:
        print(json_text(result.to_dict()), flush=True)
    else:
        write_lines(result.lines())
    return result.exit_code


def verb(
    panel: str, *, name: str | None = None, advice: str = "", needs_words: bool = True
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Make a function a verb of the command line; the function returns the exit code.

    An error that the pipeline raises on purpose becomes one line on stderr and an exit code: 2 for
    a wrong configuration or command, 1 for any other error, 130 for Ctrl-C. So does a clip that
    the memory has no room for.

    Args:
        panel: heading in the help under which the verb is listed.
        name: name of the verb; None takes that of the function.
        needs_words: whether the verb alone prints its help.
        advice: line to print after Ctrl-C, or after an error that is not in the configuration.
    """

    def register(work: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(work)
        def command(*args: P.args, **kwargs: P.kwargs) -> None:
            raise typer.Exit(_exit_code_of(lambda: work(*args, **kwargs), advice))

        app.command(name, rich_help_panel=panel, no_args_is_help=needs_words)(command)
        return work

    return register


def _exit_code_of(work: Callable[[], int], advice: str) -> int:
    try:
        return work()
    except ConfigError as error:
        print_error(f"error: {error}")
        return BAD_CONFIG
    except Diverged as error:  # the settings must change before the same command helps
        print_error(f"error: {error}")
        return UNBALANCED
    except PipelineError as error:
        from pipeline.storage.access import missing_credentials

        # A verb with advice has begun its work, which the same credentials may continue.
        if not advice and (fix := missing_credentials(error)):
            print_error(f"error: {error}; {fix}")
            return BAD_CONFIG
        print_error(f"error: {error}" + (f"\n{advice}" if advice else ""))
        return UNBALANCED
    except RuntimeError as error:
        if not _has_no_room(error):
            raise
        print_error(f"error: {message_of(error)}" + (f"\n{advice}" if advice else ""))
        return UNBALANCED
    except KeyboardInterrupt:
        print_error("; ".join(filter(None, ["interrupted", advice])))
        return INTERRUPTED


def _has_no_room(error: RuntimeError) -> bool:
    """Return whether the memory has no room for a clip; does not import torch to find it out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
