"""The one function behind `jobs/train_tokenizer.py`."""

from collections.abc import Sequence

from pipeline.command import AGAIN, exit_code_of
from pipeline.config_file import load


def train(arguments: Sequence[str]) -> int:
    """Run a training from its YAML file and `key=value` overrides; print progress.

    Returns:
        The exit code: 0 when all stages are complete; 1 when an error ended the run; 2 when the
        configuration is wrong and nothing was done; 130 when interrupted.
    """
    path, overrides = arguments[0], arguments[1:]

    def work() -> int:
        from pipeline.training.checks import check
        from pipeline.training.config import TrainConfig

        config = load(path, overrides, TrainConfig, check)
        from pipeline.training.launch import launch

        launch(config, lambda line: print(line, flush=True))
        return 0

    return exit_code_of(work, AGAIN)
