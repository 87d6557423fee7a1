"""The rate-distortion plot: what a candidate spends against how near it comes."""

import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def rate_distortion(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a PNG: bits per pixel (logarithmic) against PSNR, a point per candidate.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        figures = import_module("matplotlib.figure")
        ticker = import_module("matplotlib.ticker")
    except ImportError as error:
        raise ImportError("needs matplotlib: pip install 'vidtok-pipeline[evaluate]'") from error
    figure = figures.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for n, row in enumerate(rows):
        marker = "o" if row["model"] else ("s" if row["name"].startswith("shrink") else "^")
        colour = f"C{n % 10}"
        axes.plot(
            row["bits_per_pixel"],
            row["psnr"],
            marker,
            color=colour,
            label=row["name"],
            markersize=8,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("bits per pixel")
    axes.set_ylabel("PSNR in dB, mean over frames")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
