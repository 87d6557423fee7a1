"""The one function behind `jobs/train_tokenizer.py`."""

import sys
from collections.abc import Sequence
from typing import Final

from pipeline.command import INTERRUPTED
from pipeline.config_file import load
from pipeline.errors import ConfigError, PipelineError
from pipeline.summary import BAD_CONFIG

FAILED: Final = 1


def train(arguments: Sequence[str]) -> int:
    """Run a training from its YAML file and `key=value` overrides; print progress.

    Returns:
        The exit code: 0 when all stages are complete; 1 when an error ended the run; 2 when the
        configuration is wrong and nothing was done; 130 when interrupted.
    """
    path, overrides = arguments[0], arguments[1:]
    try:
        from pipeline.training.checks import check
        from pipeline.training.config import TrainConfig

        config = load(path, overrides, TrainConfig, check)
        from pipeline.training.launch import launch

        launch(config, lambda line: print(line, flush=True))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_CONFIG
    except PipelineError as error:
        print(f"error: {error}\nrun the same command again: it goes on", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; run the same command again: it goes on", file=sys.stderr)
        return INTERRUPTED
    return 0
