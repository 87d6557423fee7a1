"""Charts of a dataset's page, as inline SVG that needs no script and no network."""

import io
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from pipeline.dataset.log.manifest import Manifest
from pipeline.dataset.statistics import LatentSums
from pipeline.formatting import visible
from pipeline.operations.report.latent_histograms import EDGES

_COLORS: Final = ("#2a6fbb", "#c8552d", "#3a8f4d", "#8a4fa3", "#a0802a", "#5b6770")


_POINTS: Final = 60
"""Maximum number of points of a line."""


_TEXT: Final = 12
"""Size of text; on a small screen it becomes 9.5 pixels."""


_SVG: Final = "http://www.w3.org/2000/svg"


def inline_svg(figure: Figure, label: str) -> Markup:
    """Return a figure as an SVG element.

    Black becomes `currentColor`, so that text and lines follow the colour scheme of the page.

    Args:
        figure: the figure; its size in inches times 72 becomes the view box.
        label: description for people who do not see it.
    """
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    for prefix, namespace in {"": _SVG, "xlink": "http://www.w3.org/1999/xlink"}.items():
        ET.register_namespace(prefix, namespace)
    root = ET.fromstring(file.getvalue())
    for name in ("width", "height"):
        del root.attrib[name]
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    root.attrib.update({"role": "img", "aria-label": label})
    return Markup(ET.tostring(root, encoding="unicode").replace("#000000", "currentColor"))


def levels_figure(counts: Sequence[int]) -> Figure:
    """Return bars of how often a channel takes each level, and a line at their mean."""
    figure, axes = _small()
    axes.bar(range(len(counts)), counts, color=_COLORS[0], width=0.86)
    axes.axhline(sum(counts) / len(counts), color="black", linestyle="--", linewidth=1)
    axes.set_ylim(0, max(*counts, 1))
    return figure


def histogram_figure(counts: NDArray[np.int64]) -> Figure:
    """Return a channel's histogram, and the normal distribution with its mean and deviation.

    Args:
        counts: [43], as `latent_histograms.histogram` returns for one channel.
    """
    figure, axes = _small()
    normal = np.exp(-(EDGES**2) / 2) / math.sqrt(2 * math.pi)
    density = counts[1:-1] / max(1, counts.sum()) / np.diff(EDGES)
    axes.stairs(density, EDGES, fill=True, color=_COLORS[0])
    axes.plot(EDGES, normal, color="black", linewidth=0.8)
    axes.set_xlim(EDGES[0], EDGES[-1])
    axes.set_ylim(0, max(density.max(), normal.max()))
    return figure


def beyond(counts: NDArray[np.int64]) -> float:
    """Return the fraction of values outside the bins of a channel's histogram."""
    return float((counts[0] + counts[-1]) / max(1, counts.sum()))


def latents_figure(sums: LatentSums) -> Figure:
    """Return the mean of each channel, and one standard deviation to either side."""
    means, spreads = np.array(sums.mean()), np.array(sums.std())
    figure, axes = _wide(200)
    channels = range(len(means))
    axes.bar(channels, 2 * spreads, 0.6, means - spreads, color=_COLORS[0], alpha=0.6)
    axes.hlines(means, np.array(channels) - 0.3, np.array(channels) + 0.3, color="black")
    axes.axhline(0, color="#888888", linestyle="--", linewidth=1)
    axes.set_xticks(channels)
    return figure


def rates_figure(series: Mapping[str, Sequence[float]]) -> Figure | None:
    """Return a line per stage: clips per second of its work, in the order of commits.

    None if no stage has a rate above 0.
    """
    rates = [value for values in series.values() for value in values if value > 0]
    if not rates:
        return None
    figure, axes = _wide(230)
    for (name, values), color in zip(series.items(), cycle(_COLORS), strict=False):
        shown = [value if value > 0 else math.nan for value in values]
        axes.plot(shown, label=visible(name), color=color, linewidth=2, marker=".")
    axes.set_yscale("log")
    low, high = math.floor(math.log10(min(rates))), math.ceil(math.log10(max(rates)))
    axes.set_ylim(10.0**low, 10.0 ** max(high, low + 1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([])
    axes.grid(axis="y", color="#888888", alpha=0.3)
    figure.legend(loc="outside lower left", ncols=len(series), frameon=False, fontsize=_TEXT)
    return figure


def stage_rates(manifest: Manifest) -> dict[str, list[float]]:
    """Return the clips per second of each stage's work, in the order of commits.

    Units are grouped so that there are at most 60 values; 0 where a stage did nothing.
    """
    clips = manifest.table["clips_written"].to_pylist()
    timings = [
        {entry["stage"]: entry["seconds"] for entry in unit}
        for unit in manifest.table["timings"].to_pylist()
    ]
    starts = range(0, len(clips), max(1, math.ceil(len(clips) / _POINTS)))
    rates = {}
    for stage in sorted({stage for unit in timings for stage in unit}):
        done = np.add.reduceat(clips, starts)
        worked = np.add.reduceat([unit.get(stage, 0.0) for unit in timings], starts)
        rates[stage] = [n / s if s > 0 else 0.0 for n, s in zip(done, worked, strict=True)]
    return rates


def _wide(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the page's width, 760."""
    with rc_context({"font.size": _TEXT}):
        figure = Figure((760 / 72, height / 72), layout="constrained")
        axes = figure.subplots()
    axes.spines[:].set_visible(False)
    return figure, axes


def _small() -> tuple[Figure, Axes]:
    """Return a figure of size 130 × 60 without text."""
    figure = Figure((130 / 72, 60 / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes
