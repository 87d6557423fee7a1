"""Whether a model exists, and which clips it takes."""

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidtok.config import TokenizerConfig
from pipeline.config.loading import Fault


def tokenizer_faults(model: str, weights: str | None, field: str) -> Iterator[Fault]:
    """Yield what is wrong with the name of a model and the place of its weights."""
    from vidtok.presets import PRESETS

    if model not in PRESETS:
        close = difflib.get_close_matches(model, PRESETS, n=2, cutoff=0.3)
        fix = f"did you mean {' or '.join(close)}?" if close else ""
        yield Fault(f"{field}.model", model, "no model has this name", fix)
    elif weights is None or weights == "hub":
        pass
    elif "://" in weights:
        rule = "must be a path that every node can read"
        yield Fault(f"{field}.weights", weights, rule, "copy the file there first")
    elif not Path(weights).is_file():
        yield Fault(f"{field}.weights", weights, "no such file")


def clip_faults(
    model: "TokenizerConfig", frames: int, height: int, width: int, where: str = "clip"
) -> Iterator[Fault]:
    """Ask the model; its answer reads `frames = 16: <model> takes 1 + 4k frames; use 13 or 17`."""
    rules: list[Callable[[], None]] = [
        lambda: model.check_frames(frames),
        lambda: model.check_size(height, width),
    ]
    for rule in rules:
        try:
            rule()
        except ValueError as error:
            field, _, text = str(error).partition(" = ")
            value, _, text = text.partition(": ")
            yield Fault(f"{where}.{field}", value, text)
