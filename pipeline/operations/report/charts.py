"""The charts of a dataset's page, as SVG that needs no script and no network."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.statistics import LatentSums, LevelCounts
from pipeline.operations.report.latent_histograms import EDGES

COLORS: Final = ("#2a6fbb", "#c8552d", "#3a8f4d", "#8a4fa3", "#a0802a", "#5b6770")


_POINTS: Final = 60


_WIDTH: Final = 760


_SMALL_WIDE, _SMALL_HIGH = 130, 60


def levels_charts(levels: LevelCounts) -> str:
    """Return bars for how often each channel takes each level, and a line where all are alike."""
    figures = []
    for channel, (counts, value) in enumerate(zip(levels.counts, levels.perplexity(), strict=True)):
        even = sum(counts) / len(counts)
        scale, bar = _SMALL_HIGH / (max(*counts, even) or 1), _SMALL_WIDE / len(counts)
        parts = [
            f'<rect x="{n * bar:.1f}" y="{_SMALL_HIGH - count * scale:.1f}"'
            f' width="{bar * 0.86:.1f}" height="{count * scale:.1f}" fill="{COLORS[0]}">'
            f"<title>level {n}: {count}</title></rect>"
            for n, count in enumerate(counts)
        ]
        y = _SMALL_HIGH - even * scale
        parts.append(_line(0, y, _SMALL_WIDE, y, "currentColor", dashed=True))
        text = f"{value:.2f} of {len(counts)} levels"
        figures.append(_small(channel, parts, "use of the levels", text))
    return _grid(figures)


def histogram_charts(sums: LatentSums, counts: NDArray[np.int64]) -> str:
    """Return for each channel its histogram, and the normal distribution with its moments.

    Args:
        sums: of the whole dataset.
        counts: [C, 43], as `pipeline.operations.report.latent_histograms` has them.
    """
    bin_wide, bins = _SMALL_WIDE / (len(EDGES) - 1), np.diff(EDGES)
    normal = np.exp(-(EDGES**2) / 2) / math.sqrt(2 * math.pi)
    figures = []
    for channel, (mean, std) in enumerate(zip(sums.mean(), sums.std(), strict=True)):
        density = counts[channel, 1:-1] / max(1, counts[channel].sum()) / bins
        scale = _SMALL_HIGH / max(density.max(), normal.max())
        steps = "".join(
            f"V{_SMALL_HIGH - tall * scale:.1f}H{(n + 1) * bin_wide:.1f}"
            for n, tall in enumerate(density)
        )
        curve = " ".join(
            f"{n * bin_wide:.1f},{_SMALL_HIGH - tall * scale:.1f}" for n, tall in enumerate(normal)
        )
        parts = [
            f'<path d="M0 {_SMALL_HIGH}{steps}V{_SMALL_HIGH}Z" fill="{COLORS[0]}"/>',
            f'<polyline points="{curve}" fill="none" stroke="currentColor" stroke-width="0.8"/>',
        ]
        beyond = (counts[channel, 0] + counts[channel, -1]) / max(1, counts[channel].sum())
        text = f"{mean:+.3f} ± {std:.3f}<br/>beyond: {100 * beyond:.2f} %"
        figures.append(_small(channel, parts, "distribution", text))
    return _grid(figures)


def latents_chart(sums: LatentSums) -> str:
    """Return for each channel its mean, and one standard deviation to either side."""
    means, spreads = sums.mean(), sums.std()
    reach = max(abs(m) + s for m, s in zip(means, spreads, strict=True)) or 1.0
    height, step, left = 180, (_WIDTH - 50) / len(means), 50

    def y(value: float) -> float:
        return height / 2 * (1 - value / reach)

    parts = [_line(left, y(0), _WIDTH, y(0), "#888", dashed=True)]
    parts += [
        _text(0, y(v) + 4, f"{v:+.2f}" if v else "0") for v in (reach * 0.95, 0, -reach * 0.95)
    ]
    for channel, (mean, std) in enumerate(zip(means, spreads, strict=True)):
        x = left + (channel + 0.5) * step
        title = f"<title>channel {channel}: mean {mean:+.5f}, std {std:.5f}</title>"
        parts.append(
            f'<g><rect x="{x - step * 0.3:.1f}" y="{y(mean + std):.1f}" width="{step * 0.6:.1f}"'
            f' height="{y(mean - std) - y(mean + std):.1f}" fill="{COLORS[0]}" opacity="0.6"/>'
            + _line(x - step * 0.3, y(mean), x + step * 0.3, y(mean), "currentColor")
            + title
            + "</g>"
        )
        parts.append(_text(x - 4, height + 16, str(channel)))
    return _wide(height + 22, parts, "mean and standard deviation of each channel")


def rates_chart(series: Mapping[str, Sequence[float]]) -> str:
    """Return a line for each stage: clips per second of its work, over the units committed."""
    largest = max((max(values) for values in series.values() if values), default=0)
    if largest <= 0:
        return ""
    smallest = min(v for values in series.values() for v in values if v > 0)
    low, high = math.floor(math.log10(smallest)), math.ceil(math.log10(largest))
    high = max(high, low + 1)
    height, left = 200, 60

    def y(value: float) -> float:
        return height * (high - math.log10(value)) / (high - low)

    parts = []
    for power in range(low, high + 1):
        parts.append(_line(left, y(10**power), _WIDTH, y(10**power), "#8884"))
        parts.append(_text(0, y(10**power) + 4, f"{10.0**power:g}"))
    names = []
    for n, (name, values) in enumerate(series.items()):
        color = COLORS[n % len(COLORS)]
        step = (_WIDTH - left) / max(1, len(values) - 1)
        points = [f"{left + i * step:.1f},{y(v):.1f}" for i, v in enumerate(values) if v > 0]
        # A single point is drawn as a short line.
        points += [f"{_WIDTH},{points[0].split(',')[1]}"] if len(points) == 1 else []
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}"'
            f' stroke-width="2"><title>{escape(name)}</title></polyline>'
        )
        names.append(f'<span style="border-color: {color}">{escape(name)}</span>')
    legend = f'<p class="legend">{" ".join(names)}</p>'
    return f"<div>{_wide(height + 8, parts, 'clips per second by stage')}{legend}</div>"


def stage_rates(manifest: Manifest) -> dict[str, list[float]]:
    """Return by stage the clips per second of its work, over runs of units in their order.

    Units are grouped so that there are at most 60 values; 0 where a stage did nothing.
    """
    clips = manifest.table["clips_written"].to_pylist()
    timings = [
        {entry["stage"]: entry["seconds"] for entry in unit}
        for unit in manifest.table["timings"].to_pylist()
    ]
    stages = sorted({stage for unit in timings for stage in unit})
    size = max(1, math.ceil(len(clips) / _POINTS))
    total_clips = [0, *accumulate(clips)]
    edges = [*range(0, len(clips), size), len(clips)]
    rates: dict[str, list[float]] = {}
    for stage in stages:
        total = [0.0, *accumulate(unit.get(stage, 0.0) for unit in timings)]
        worked = [total[b] - total[a] for a, b in pairwise(edges)]
        done = [total_clips[b] - total_clips[a] for a, b in pairwise(edges)]
        rates[stage] = [n / s if s > 0 else 0.0 for n, s in zip(done, worked, strict=True)]
    return rates


def _wide(height: float, parts: Sequence[str], label: str) -> str:
    """Return a chart over the whole width of the page, on a small screen to be moved in."""
    return f'<div class="wide">{_svg(_WIDTH, height, 12, parts, label)}</div>'


def _small(channel: int, parts: Sequence[str], label: str, text: str) -> str:
    """Return a chart of one channel with its numbers below, `text` being HTML."""
    svg = _svg(_SMALL_WIDE, _SMALL_HIGH, 1, parts, f"channel {channel}: {label}")
    return f"<figure>{svg}<figcaption><b>channel {channel}</b><br/>{text}</figcaption></figure>"


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(figures)}</div>'


def _svg(width: float, height: float, above: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 {-above} {width} {height + above}" role="img"'
        f' aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{dash}/>'


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
