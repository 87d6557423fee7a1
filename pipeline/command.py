"""The one function behind `jobs/tokenize_corpus.py` and `python -m pipeline tokenize`.

Also how every job answers for its errors: one line on stderr, and an exit code.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console

from pipeline.config_file import load_config
from pipeline.errors import ConfigError, PipelineError
from pipeline.progress import ConsoleProgress
from pipeline.summary import BAD_CONFIG, UNBALANCED

INTERRUPTED: Final = 130
AGAIN: Final = "run the same command again: it goes on"


def tokenize(config: str, overrides: Sequence[str] = ()) -> int:
    """Run a job from its YAML file and `key=value` overrides; print progress and summary.

    Returns:
        The exit code: 0 when every unit is committed and every sample and clip accounted for; 1
        when units failed, something does not balance, or an error ended the job; 2 when the
        configuration is wrong and nothing was done; 130 when interrupted.
    """
    console = Console(highlight=False)

    def work() -> int:
        settings = load_config(config, overrides)
        from pipeline.job import run  # torch and Ray take seconds: a typing error need not wait

        summary = run(settings, ConsoleProgress(console))
        for line in summary.lines():
            console.print(line, soft_wrap=True, markup=False)
        return summary.exit_code

    return exit_code_of(work, AGAIN)


def exit_code_of(work: Callable[[], int], advice: str = "") -> int:
    """Run a job's work and return its exit code, or that of the error which ended it.

    Args:
        work: returns the exit code.
        advice: what to do after an error that is no fault of the configuration, or Ctrl-C.
    """
    try:
        return work()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_CONFIG
    except PipelineError as error:
        print(f"error: {error}" + (f"\n{advice}" if advice else ""), file=sys.stderr)
        return UNBALANCED
    except KeyboardInterrupt:
        if advice:
            print(f"interrupted; {advice}", file=sys.stderr)
        return INTERRUPTED
