"""The one function behind `jobs/tokenize_corpus.py` and `python -m pipeline tokenize`.

Also how every job answers for its errors: one line on stderr, and an exit code.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console

from pipeline.config.loading import load
from pipeline.errors import BAD_CONFIG, INTERRUPTED, UNBALANCED, ConfigError, PipelineError
from pipeline.job.config_checks import load_config
from pipeline.job.progress import ConsoleProgress

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
        from pipeline.job.driver import (
            run,  # torch and Ray take seconds: a typing error need not wait
        )

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


FAILED: Final = 1


def evaluate(arguments: Sequence[str]) -> int:
    """Run an evaluation from `[CONFIG] [key=value …]`; print the table.

    Returns:
        The exit code: 0 when at least one video was evaluated, 1 when none was or an error ended
        the run, 2 when the configuration is wrong, 130 when interrupted.
    """
    console = Console(highlight=False)
    path = None if not arguments or "=" in arguments[0] else arguments[0]

    def work() -> int:
        from pipeline.evaluation.checks import check_evaluation
        from pipeline.evaluation.config import EvaluationConfig

        config = load(path, arguments[path is not None :], EvaluationConfig, check_evaluation)
        from pipeline.evaluation.run import (
            run_evaluation,  # torch takes seconds: a typing error need not wait
        )

        with console.status("evaluating") as status:
            done = run_evaluation(
                config, lambda n, of: status.update(f"{n} of {of} videos and tars")
            )
        for line in done.lines:
            console.print(line, soft_wrap=True, markup=False)
        return 0 if done.results["videos"] else FAILED

    return exit_code_of(work)


def train(arguments: Sequence[str]) -> int:
    """Run a training from its YAML file and `key=value` overrides; print progress.

    Returns:
        The exit code: 0 when all stages are complete; 1 when an error ended the run; 2 when the
        configuration is wrong and nothing was done; 130 when interrupted.
    """
    path, overrides = arguments[0], arguments[1:]

    def work() -> int:
        from pipeline.training.checks import check_training
        from pipeline.training.config import TrainConfig

        config = load(path, overrides, TrainConfig, check_training)
        from pipeline.training.launch import launch

        launch(config, lambda line: print(line, flush=True))
        return 0

    return exit_code_of(work, AGAIN)
