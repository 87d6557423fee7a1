"""The one function behind `jobs/evaluate_tokenizer.py`."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console

from pipeline.command import exit_code_of
from pipeline.config_file import load
from pipeline.evaluation.checks import check
from pipeline.evaluation.config import EvaluationConfig

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
        config = load(path, arguments[path is not None :], EvaluationConfig, check)
        from pipeline.evaluation.run import run  # torch takes seconds: a typing error need not wait

        with console.status("evaluating") as status:
            done = run(config, lambda n, of: status.update(f"{n} of {of} videos and tars"))
        for line in done.lines:
            console.print(line, soft_wrap=True, markup=False)
        return 0 if done.results["videos"] else FAILED

    return exit_code_of(work)
