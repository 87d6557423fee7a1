"""Trainings of seconds: a network of width 8, pictures of 32×32, eight batches."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.training.config import TrainConfig
from pipeline.training.pace import PACE
from tests.assets import HIKER, ONE_FRAME, VIDEOS
from vidtok.presets import PRESETS

FSQ, KL, KL_V1_1 = "small_fsq", "small_kl", "small_kl_v1_1"
_FSQ, _KL = (PRESETS[f"vidtok_{n}_tiny"] for n in ("fsq_causal_488_262144", "kl_causal_488_8chn"))
SMALL = {
    FSQ: replace(_FSQ, name=FSQ, ch=8),
    KL: replace(_KL, name=KL, ch=8),
    KL_V1_1: replace(_KL, name=KL_V1_1, ch=8, network="causal_v1_1"),
}
"""Networks of width 8. A test adds them to `PRESETS` in its process."""

BROKEN = VIDEOS / "broken" / "text.mp4"

CLIPS = {"frames": 5, "height": 32, "width": 32, "fps": [8.0], "segment_frames": 20}
LOW = {
    "name": "low",
    "steps": 8,
    "batch": 1,
    "clips": CLIPS,
    "lr": 1e-4,
    "ema_decay": 0.9,
    "precision": "float32",
    "objective": {"perceptual": "structural", "perceptual_weight": 0.1, "discriminator_start": 4},
}
HIGH = {
    "name": "high",
    "train": "decoder",
    "steps": 3,
    "batch": 1,
    "clips": {**CLIPS, "height": 40, "width": 40},
    "precision": "float32",
    "objective": {"perceptual": "none", "discriminator": None},
}

HELD_OUT = {"uri": [str(ONE_FRAME.path)], "every": 5}


def settings(output: Path, **changes: Any) -> dict[str, Any]:
    """Return a run's settings as its YAML file has them; `changes` are keys of the first level."""
    values = {
        "model": "vidtok_kl_causal_488_8chn_tiny",
        "output": str(output),
        "source": {"uri": [str(HIKER.path), str(BROKEN)]},
        "stages": [LOW, HIGH],
        "loaders": 0,
        "keep_mb": 64,
        "checkpoint_every": 4,
        "log_every": 3,
    }
    return values | changes


def training(output: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(settings(output, **changes))


def rows(output: Path, stage: str = "1-low", of: str | None = None) -> list[dict[str, Any]]:
    """Return the lines of a stage's record, without times: all, or those of one kind."""
    lines = (output / stage / "metrics.jsonl").read_text().splitlines()
    found = [row for row in map(json.loads, lines) if of is None or row["of"] == of]
    return [{name: row[name] for name in row if name not in PACE} for row in found]


def measured(output: Path) -> list[dict[str, Any]]:
    """Return all that two runs of the same settings must have in common."""
    return [row for n in ("1-low", "2-high") for row in rows(output, n) if row["of"] != "note"]


def interrupt_at(text: str) -> Callable[[str], None]:
    """Return a `tell` that a person's Ctrl-C follows when a line begins with the text."""

    def tell(line: str) -> None:
        if line.startswith(text):
            raise KeyboardInterrupt

    return tell
