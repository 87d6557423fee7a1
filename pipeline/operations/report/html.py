"""The page about a dataset as one HTML file that fetches nothing, so that it can be sent around.

It shows the blocks of the Markdown page, and also charts, examples of the quarantine, and clips
beside what their tokens decode to.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.statistics import BucketStatistics
from pipeline.formatting import format_bytes
from pipeline.operations.outcome import Outcome, labelled
from pipeline.operations.report.blocks import Block, Table
from pipeline.operations.report.charts import (
    histogram_figure,
    inline_svg,
    latents_figure,
    levels_figure,
    rates_figure,
    stage_rates,
)
from pipeline.operations.report.latent_histograms import REACH, LatentHistograms, draw_histograms
from pipeline.operations.report.page import Page, report
from pipeline.operations.report.pairs import DRAWN_PER_PAIR, Pair, draw_pairs
from pipeline.storage.store import Store

EXAMPLES: Final = 3
"""Number of quarantined samples or clips that are shown for each reason."""


_QUARANTINE_FILES: Final = 200
"""Maximum number of quarantine tables that are read for them."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the page's width."""

    kind: ClassVar = "chart"
    svg: Markup


@dataclass(frozen=True, slots=True)
class ChannelCharts:
    """Small charts, one per channel."""

    kind: ClassVar = "channels"
    charts: Sequence[tuple[Markup, Sequence[str]]]
    """SVG of each channel, and the lines below it."""


@dataclass(frozen=True, slots=True)
class ClipFigure:
    """An animated picture of a clip."""

    kind: ClassVar = "clip"
    pair: Pair
    names: str
    """What the picture shows from left to right."""

    @property
    def data(self) -> str:
        """The picture in base64."""
        return base64.b64encode(self.pair.webp).decode()


HtmlBlock = Block | Heading | Chart | ChannelCharts | ClipFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPage(Outcome):
    """The HTML file that was written."""

    page: Page
    path: str
    bytes: int
    pairs: int
    """Number of clips that it shows."""

    @property
    def exit_code(self) -> int:
        """Exit code: 0 when every sample and clip is accounted for, else 1."""
        return self.page.exit_code

    def to_dict(self) -> dict[str, Any]:
        """Return what the page returns, and the path of the file."""
        return {**self.page.to_dict(), "html": self.path}

    def lines(self) -> list[str]:
        """Return the lines to print."""
        size = f"{format_bytes(self.bytes)}, {self.pairs} clips shown"
        return [labelled("page", f"{self.path}: {size}")]


def write_html(store: Store, path: str, pairs: int = 0) -> WrittenPage:
    """Write the page about a dataset, also while a job runs.

    Args:
        store: the dataset's root.
        path: path of the file on a local disk.
        pairs: number of the worst and of the best clips that are shown, of four times as many that
            are decoded. Needs sources and weights at the places that `dataset.json` names.

    Raises:
        ConfigError: there is no dataset, or its models cannot be loaded.
        StoreError: the log, a part or a run's summary is damaged.
        OSError: the file cannot be written.
    """
    page = report(store)
    dataset, manifest = page.status.dataset, page.status.manifest
    total = page.statistics.total
    histograms = draw_histograms(store, dataset, manifest, total.latents)
    sections: dict[str, list[HtmlBlock]] = {**page.sections()}
    sections["Latents and codes"] = list(_latents_and_codes(total, histograms))
    if named := _examples(store, page):
        sections["Quarantine"].append(named)
    if rates := rates_figure(stage_rates(manifest)):
        text = "Clips per second of work in one process, in the order of commits:"
        svg = Markup(inline_svg(rates, "clips per second by stage"))
        sections["Work"] += [text, Chart(svg)]
    shown: list[Pair] = []
    if pairs:
        shown, findings = draw_pairs(store, dataset, manifest, pairs)
        sections["Clips and what their tokens decode to"] = [
            *_clip_figures(shown),
            *map(str, findings),
        ]
    order = (
        "Counts",
        "Quarantine",
        "Clips and what their tokens decode to",
        "Quality",
        "Latents and codes",
        "Files",
        "Work",
        "Runs",
    )
    text = render(
        page.status.output, list(page.head()), {t: sections[t] for t in order if t in sections}
    )
    Path(path).write_text(text, encoding="utf-8")
    return WrittenPage(page=page, path=path, bytes=len(text.encode()), pairs=len(shown))


def render(title: str, head: Sequence[HtmlBlock], sections: dict[str, list[HtmlBlock]]) -> str:
    """Return a page as HTML; all text is escaped.

    Args:
        title: title of the page.
        head: blocks above all sections.
        sections: blocks by heading.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.operations.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    return template.render(title=title, head=head, sections=sections)


def examples(store: Store, page: Page) -> dict[str, list[dict[str, Any]]]:
    """Return the first quarantine rows of each reason.

    Raises:
        StoreError: a quarantine table is damaged or missing.
    """
    found: dict[str, list[dict[str, Any]]] = {
        reason: [] for reason, _ in page.status.tally.reasons.most_common()
    }
    for part in page.status.manifest.quarantine_parts()[:_QUARANTINE_FILES]:
        if all(len(rows) >= EXAMPLES for rows in found.values()):
            break
        with open_parquet(store, part.path) as parquet:
            rows = parquet.read().to_pylist()
        for row in rows:
            if len(named := found.setdefault(row["reason"], [])) < EXAMPLES:
                named.append(row)
    return found


def _examples(store: Store, page: Page) -> Table | None:
    rows = []
    for reason, found in examples(store, page).items():
        for row in found:
            index = "" if row["clip_index"] is None else f"/{row['clip_index']}"
            rows.append((reason, f"{row['unit']}/{row['key']}{index}", row["detail"]))
    return Table("lll", ("reason", "example", "detail"), rows) if rows else None


def _clip_figures(pairs: Sequence[Pair]) -> Iterator[HtmlBlock]:
    if not pairs:
        return
    names = ", then ".join(["the source", *pairs[0].psnr_db])
    yield (
        f"From left to right: {names}. The worst and the best of {DRAWN_PER_PAIR} times as many"
        " random clips, the worst first."
    )
    for pair in pairs:
        yield ClipFigure(pair, names)


def _latents_and_codes(
    total: BucketStatistics, histograms: LatentHistograms
) -> Iterator[HtmlBlock]:
    for name, sums in total.latents.items():
        yield Heading(f"{name}: latents")
        yield (
            "Mean of each channel, and one standard deviation to either side, over"
            f" {sums.cells} cells of all clips."
        )
        svg = inline_svg(latents_figure(sums), "mean and standard deviation of each channel")
        yield Chart(Markup(svg))
        yield (
            f"Distribution of each channel in {histograms.clips} random clips, from {REACH}"
            f" standard deviations below its mean to {REACH} above, and the fraction of values"
            " beyond. The line is the normal distribution with the same mean and deviation."
        )
        charts = []
        moments = zip(sums.mean(), sums.std(), histograms.counts[name], strict=True)
        for channel, (mean, std, counts) in enumerate(moments):
            svg = inline_svg(histogram_figure(counts), f"channel {channel}: distribution")
            beyond = (counts[0] + counts[-1]) / max(1, counts.sum())
            lines = (f"{mean:+.3f} ± {std:.3f}", f"beyond: {100 * beyond:.2f} %")
            charts.append((Markup(svg), lines))
        yield ChannelCharts(charts)
    if histograms.unread:
        yield (
            f"{len(histograms.unread)} more clips could not be read; verify tells what is wrong:"
            f" {histograms.unread[0]}"
        )
    for name, levels in total.levels.items():
        yield Heading(f"{name}: code indices")
        yield (
            f"How often each channel takes each of its levels in {levels.cells} code indices. The"
            " line is at equal use. Below it is the perplexity."
        )
        charts = []
        for channel, (use, value) in enumerate(
            zip(levels.counts, levels.perplexity(), strict=True)
        ):
            svg = inline_svg(levels_figure(use), f"channel {channel}: use of the levels")
            charts.append((Markup(svg), (f"{value:.2f} of {len(use)} levels",)))
        yield ChannelCharts(charts)
