"""Write the weights that the training of a bundled model starts from.

`docs/explanation/models.md` describes the training.

    python -m tools.bundled_models.start docs/models/kl.yaml out/kl-start.safetensors

The weights are fitted to clips of the configuration's first stage.
"""

import argparse
import sys
from contextlib import closing
from pathlib import Path

import vidtok
from pipeline.config.loading import load
from pipeline.errors import ConfigError
from pipeline.training.checks import check_training
from pipeline.training.clips import TrainingClips
from pipeline.training.config import TrainConfig
from tools.bundled_models.even_levels import even_levels
from tools.bundled_models.redraw_blocks import redraw_blocks
from tools.bundled_models.warm_start import warm_start
from vidtok.checkpoint import save

CLIPS = 48
"""Number of clips that the weights are fitted to."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="YAML file of a training run")
    parser.add_argument("output", type=Path, help="file to write, .safetensors")
    parser.add_argument(
        "--stretch",
        type=Path,
        metavar="WEIGHTS",
        help="stretch the latents of these FSQ weights over all levels;"
        " without it, the linear path of drawn weights is fitted",
    )
    parser.add_argument(
        "--redraw",
        type=Path,
        metavar="WEIGHTS",
        help="draw the residual blocks of these weights again, with inputs of even scale",
    )
    asked = parser.parse_args(arguments)
    try:
        # The run's own weights are what this program writes, so they do not exist yet.
        config = load(asked.config, ["weights=random"], TrainConfig, check_training)
        tokenizer = start_of(config, stretch=asked.stretch, linear=asked.redraw)
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        save(tokenizer, asked.output)
    except (ConfigError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"written    {asked.output}")


def start_of(config: TrainConfig, *, stretch: Path | None, linear: Path | None) -> vidtok.Tokenizer:
    """Return the tokenizer that a run starts from.

    Args:
        config: the run.
        stretch: FSQ weights whose latents are stretched.
        linear: weights whose residual blocks are drawn again. Without either, the linear path of
            drawn weights is fitted.

    Raises:
        ConfigError: the videos of the configuration cannot be used.
        ValueError: the weights to stretch belong to a KL tokenizer, or are none.
    """
    with closing(TrainingClips(config.clips(config.stages[0]), CLIPS)) as batches:
        clips = next(batches).float() / 127.5 - 1
    if linear is not None:
        tokenizer = vidtok.load(linear)
        redraw_blocks(tokenizer, clips, seed=config.seed)
    elif stretch is None:
        tokenizer = vidtok.build(config.model, seed=config.seed)
        warm_start(tokenizer, clips, seed=config.seed)
    else:
        tokenizer = vidtok.load(stretch)
        even_levels(tokenizer, clips)
    return tokenizer


if __name__ == "__main__":
    main()
