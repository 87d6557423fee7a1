"""Rules for the settings that name a model: it must exist, and must take the clips."""

import difflib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.job import HUB, RANDOM
from pipeline.config.loading import Fault

if TYPE_CHECKING:
    from vidtok.config import TokenizerConfig


def tokenizer_faults(model: str, weights: str | None, where: str = "") -> Iterator[Fault]:
    """Yield the errors in a model's name and in its weights.

    Args:
        model: a name, which should be one of `vidtok.list_models()`.
        weights: path of a checkpoint, `hub`, `random`, or None for the weights in the package.
        where: text before the fields `model` and `weights`, such as `tokenizers.0.`.
    """
    from vidtok import bundled_weights
    from vidtok.presets import PRESETS

    if model not in PRESETS:
        close = difflib.get_close_matches(model, PRESETS, n=2, cutoff=0.3)
        fix = f"did you mean {' or '.join(close)}?" if close else ""
        yield Fault(f"{where}model", model, "no model has this name", fix)
    elif weights is None:
        if bundled_weights(model) is None:
            bundled = " and ".join(name for name in PRESETS if bundled_weights(name))
            yield Fault(
                f"{where}weights",
                rule=f"the package has no weights of {model}, only of {bundled}",
                fix="set hub, which downloads the released checkpoint; or the path of a file, as"
                f" `python -m vidtok convert {model} FILE.safetensors` writes it; or random, for"
                " tokens without a meaning",
            )
    elif weights in (HUB, RANDOM):
        pass
    elif "://" in weights:
        rule = "must be a path that every node can read"
        yield Fault(f"{where}weights", weights, rule, "copy the file to such a path first")
    elif not Path(weights).is_file():
        yield Fault(f"{where}weights", weights, "no such file")


def clip_faults(
    model: "TokenizerConfig", frames: int, height: int, width: int, where: str = "clip"
) -> Iterator[Fault]:
    """Yield the errors in the shape of a clip, as found by the model.

    Args:
        model: configuration of the model.
        frames: number of frames.
        height: in pixels.
        width: in pixels.
        where: section of the configuration that has the fields.
    """
    for rule in (partial(model.check_frames, frames), partial(model.check_size, height, width)):
        try:
            rule()
        except ValueError as error:  # "frames = 16: <model> takes 1 + 4k frames; use 13 or 17"
            field, _, text = str(error).partition(" = ")
            value, _, text = text.partition(": ")
            yield Fault(f"{where}.{field}", value, text)
