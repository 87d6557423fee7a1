"""Losses over the steps of a run, for training clips and for held-out clips.

The loss of a step is NaN where its batch holds no clip of that kind.
"""

import io
from math import isnan, nan

_POINTS = 50


def mean(losses: list[float]) -> float:
    """Return the mean over the steps that have a loss; NaN if none has."""
    known = [loss for loss in losses if not isnan(loss)]
    return sum(known) / len(known) if known else nan


def at_end(losses: list[float]) -> float:
    """Return the mean over the last twentieth of the steps."""
    return mean(losses[-max(1, len(losses) // 20) :])


def curve(trained: list[float], held_out: list[float], unit: str) -> bytes:
    """Return a PNG of both; the rare held-out losses are averaged over many steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(trained, linewidth=1, label="trained on")
    span = max(1, len(held_out) // _POINTS)
    starts = range(0, len(held_out), span)
    means = [mean(held_out[start : start + span]) for start in starts]
    axes.plot([start + span / 2 for start in starts], means, ".-", linewidth=1, label="held out")
    axes.set(xlabel="steps", ylabel=f"loss, {unit}", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
