"""The charts of a dataset's page, as SVG that needs no script and no network."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate, pairwise
from typing import Final

from pipeline.bucket_statistics import LatentSums, LevelCounts
from pipeline.manifest import Manifest

COLORS: Final = ("#2a6fbb", "#c8552d", "#3a8f4d", "#8a4fa3", "#a0802a", "#5b6770")
_POINTS: Final = 60
_WIDTH: Final = 760


def levels_chart(levels: LevelCounts) -> str:
    """Return bars for how often each channel takes each level, and a line where all are alike."""
    columns, gap, height = len(levels.counts), 16, 90
    wide = (_WIDTH - gap * (columns - 1)) / columns
    parts = []
    for channel, (counts, value) in enumerate(zip(levels.counts, levels.perplexity(), strict=True)):
        left, total, bar = channel * (wide + gap), sum(counts), wide / len(counts)
        top = max(max(counts), total / len(counts))
        for n, count in enumerate(counts):
            tall = height * count / top if top else 0
            parts.append(
                f'<rect x="{left + n * bar:.1f}" y="{height - tall:.1f}" width="{bar * 0.86:.1f}"'
                f' height="{tall:.1f}" fill="{COLORS[0]}"><title>level {n}: {count}</title></rect>'
            )
        even = height - height * total / len(counts) / top if top else height
        parts.append(_line(left, even, left + wide, even, "#888", dashed=True))
        parts.append(_text(left, height + 16, f"channel {channel}"))
        parts.append(_text(left, height + 32, f"{value:.2f} of {len(counts)}"))
    return _svg(height + 38, parts, "use of the levels of each channel")


def latents_chart(sums: LatentSums) -> str:
    """Return for each channel its mean, and one standard deviation to either side."""
    means, spreads = sums.mean(), sums.std()
    reach = max(abs(m) + s for m, s in zip(means, spreads, strict=True)) or 1.0
    height, step, left = 180, (_WIDTH - 50) / len(means), 50

    def y(value: float) -> float:
        return height / 2 * (1 - value / reach)

    parts = [_line(left, y(0), _WIDTH, y(0), "#888", dashed=True)]
    parts += [_text(0, y(v) + 4, f"{v:+.2f}") for v in (reach * 0.95, 0, -reach * 0.95)]
    for channel, (mean, std) in enumerate(zip(means, spreads, strict=True)):
        x = left + (channel + 0.5) * step
        title = f"<title>channel {channel}: mean {mean:+.5f}, std {std:.5f}</title>"
        parts.append(
            f'<g><rect x="{x - step * 0.3:.1f}" y="{y(mean + std):.1f}" width="{step * 0.6:.1f}"'
            f' height="{y(mean - std) - y(mean + std):.1f}" fill="{COLORS[0]}" opacity="0.45"/>'
            + _line(x - step * 0.3, y(mean), x + step * 0.3, y(mean), "currentColor")
            + title
            + "</g>"
        )
        parts.append(_text(x - 4, height + 16, str(channel)))
    return _svg(height + 22, parts, "mean and standard deviation of each channel")


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
    legend = left
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
        parts.append(
            f'<text x="{legend}" y="{height + 22}" style="fill: {color}">{escape(name)}</text>'
        )
        legend += 9 * len(name) + 24
    return _svg(height + 30, parts, "clips per second by stage")


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


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 -12 {_WIDTH} {height + 12:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{dash}/>'


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
