"""The page about a dataset as one HTML file: nothing in it is fetched, so it can be sent around.

What the Markdown says, and what that cannot: charts, examples of the quarantine, and clips beside
what their tokens decode to.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import repeat
from pathlib import Path
from typing import Any, Final

from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.totals import Statistics, clip_lines, statistics_of
from pipeline.formatting import format_bytes, format_duration
from pipeline.operations.findings import Finding
from pipeline.operations.report.charts import (
    histogram_charts,
    latents_chart,
    levels_charts,
    rates_chart,
    stage_rates,
)
from pipeline.operations.report.latent_histograms import REACH, LatentHistograms, draw_histograms
from pipeline.operations.report.page import Block, Page, ReportTable, percentage, report
from pipeline.operations.report.pairs import DRAWN_PER_PAIR, Pair, draw_pairs
from pipeline.storage.store import Store

EXAMPLES: Final = 3
"""Quarantined samples or clips that are named for each reason."""


_QUARANTINE_FILES: Final = 200
"""Tables that are read for them, at most."""


_NUMBER: Final = re.compile(r"([\d.:]+( [kMGT]?B| s)?( \([\d.]+ %\))?|-)?")


_SHORT: Final = 34
"""Characters of a cell that is not broken; a table wider than the screen moves in its own box."""


_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #8886; }
h3 { font-size: 1.1em; margin-top: 2em; }
p, figcaption, dd { overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .2em 1.2em .2em 0; white-space: nowrap; }
th, td { border-bottom: 1px solid #8884; font-variant-numeric: tabular-nums; }
.number { text-align: right; }
.text { white-space: normal; overflow-wrap: anywhere; min-width: 13em; }
.facts { display: flex; flex-wrap: wrap; gap: .8em 2.4em; margin: 1.5em 0; }
.facts div { display: flex; flex-direction: column-reverse; }
.facts dd { margin: 0; font-size: 1.7em; line-height: 1.2; font-variant-numeric: tabular-nums; }
.lines { display: grid; grid-template-columns: max-content 1fr; gap: .2em 1.2em; }
.lines div { display: contents; }
.lines dd { margin: 0; }
svg { display: block; width: 100%; height: auto; font-size: 12px; overflow: visible; }
svg text { fill: currentColor; }
figure { margin: 1.2em 0; }
figure img { width: 100%; }
figcaption { font-size: .9em; }
.wide { overflow-x: auto; }
.wide svg { min-width: 600px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(7em, 1fr)); gap: 1.2em; }
.grid figure { margin: 0; }
@media (max-width: 600px) {
  table { font-size: .85em; }
  th { white-space: normal; }
  th, td { padding-right: .8em; }
  .text { min-width: 9em; }
}
.legend span { border-left: 1em solid; padding: 0 1.2em 0 .4em; white-space: nowrap; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPage:
    """The file that was written."""

    page: Page
    path: str
    bytes: int
    pairs: int

    @property
    def exit_code(self) -> int:
        """0 when every sample and clip is accounted for."""
        return self.page.exit_code

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the page's own, and the file."""
        return {**self.page.to_dict(), "html": self.path}

    def lines(self) -> list[str]:
        """Return what was written."""
        return [f"page       {self.path}: {format_bytes(self.bytes)}, {self.pairs} clips shown"]


def write_html(store: Store, path: str, pairs: int = 0) -> WrittenPage:
    """Write the page about a dataset, also while a job runs.

    Args:
        store: the dataset's root.
        path: of the file, on a local disk.
        pairs: so many of the worst and of the best clips are shown, of four times as many that are
            decoded. Needs sources and weights where `dataset.json` says they were.

    Raises:
        ConfigError: there is no dataset, or its models are not to be had.
        StoreError: the log, a part or a run's summary is damaged.
        OSError: the file cannot be written.
    """
    page = report(store)
    status = page.status
    shown: list[Pair] = []
    findings: list[Finding] = []
    if pairs:
        shown, findings = draw_pairs(store, status.dataset, status.manifest, pairs)
    statistics = statistics_of(store, status.dataset, status.manifest)
    histograms = draw_histograms(store, status.dataset, status.manifest, statistics.total.latents)
    sections = {
        "Counts": _counts(page, statistics),
        "Quarantine": _quarantine(page, examples(store, page)),
        "Clips and what their tokens decode to": _figures(shown, findings),
        "Quality": [_html(page.sections()["Quality"])],
        "Latents and codes": _charts(statistics, histograms),
        "Files": [_html(page.sections()["Files"])],
        "Work": _work(page),
        "Runs": [_html(page.sections()["Runs"])],
    }
    if not pairs:
        del sections["Clips and what their tokens decode to"]
    body = "".join(_section(title, "".join(parts)) for title, parts in sections.items())
    top = _facts(page, statistics) + _html(page.head())
    title = escape(status.output)
    text = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n{top}\n{body}</html>\n"
    ).encode()
    Path(path).write_bytes(text)
    return WrittenPage(page=page, path=path, bytes=len(text), pairs=len(shown))


def examples(store: Store, page: Page) -> dict[str, list[dict[str, Any]]]:
    """Return by reason the first rows of the quarantine that have it.

    Raises:
        StoreError: a table of the quarantine is damaged or missing.
    """
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in page.status.tally.reasons}
    for part in page.status.manifest.quarantine_parts()[:_QUARANTINE_FILES]:
        if all(len(rows) >= EXAMPLES for rows in found.values()):
            break
        with open_parquet(store, part.path) as parquet:
            rows = parquet.read().to_pylist()
        for row in rows:
            if len(named := found.setdefault(row["reason"], [])) < EXAMPLES:
                named.append(row)
    return found


def _facts(page: Page, statistics: Statistics) -> str:
    """Return what one wants to know first, in large numbers."""
    counts, total = page.status.tally.counts, statistics.total
    read, lost = counts.samples_read, counts.samples_quarantined + counts.clips_quarantined
    facts = [
        ("clips", _grouped(counts.clips_written)),
        (f"of {_grouped(read)} samples kept", percentage(counts.samples_with_clips, read)),
        ("samples and clips quarantined", _grouped(lost)),
        ("in parts", format_bytes(page.status.tally.bytes)),
    ]
    facts.insert(1, ("of source", format_duration(total.microseconds / 1e6)))
    return _definitions("facts", facts)


def _grouped(number: int) -> str:
    """Return `12 345 678`, in one line."""
    return f"{number:,}".replace(",", "\u202f")


def _counts(page: Page, statistics: Statistics) -> Iterator[str]:
    yield _html(page.sections()["Counts"])
    yield _definitions("lines", (line.split(maxsplit=1) for line in clip_lines(statistics.total)))


def _quarantine(page: Page, quarantined: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    reasons = page.status.tally.reasons
    named = [
        (reason, f"{row['unit']}/{row['key']}{_index(row['clip_index'])}", row["detail"])
        for reason, rows in sorted(quarantined.items(), key=lambda found: -reasons[found[0]])
        for row in rows
    ]
    heads = ("reason", "for example", "detail")
    yield _html([*page.sections()["Quarantine"], ReportTable(heads, named)])


def _work(page: Page) -> Iterator[str]:
    yield _html(page.sections()["Work"])
    if rates := rates_chart(stage_rates(page.status.manifest)):
        yield "<p>Clips per second of work in one process, over the units in the order of commits:"
        yield f"</p>{rates}"


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body.strip() or 'None.'}\n"


def _html(blocks: Iterable[Block]) -> str:
    return "\n".join(_block(block) for block in blocks)


def _block(block: Block) -> str:
    if isinstance(block, str):
        text = re.sub(r"`(.*?)`", r"<code>\1</code>", escape(block.strip()))
        text = re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", text)
        return f"<p>{text}</p>" if text else ""
    if not block.rows:
        return ""
    kinds = [_kind(column) for column in zip(*block.rows, strict=True)]
    head = "".join(map(_cell, repeat("th"), kinds, block.heads))
    rows = "".join(
        f"<tr>{''.join(map(_cell, repeat('td'), kinds, row))}</tr>\n" for row in block.rows
    )
    return f"<table><tr>{head}</tr>\n{rows}</table>"


def _kind(column: Sequence[str]) -> str:
    """Return how a column is set: numbers to the right, and only what is long in several lines."""
    if all(_NUMBER.fullmatch(cell) for cell in column):
        return "number"
    return "text" if max(map(len, column)) > _SHORT else ""


def _cell(tag: str, kind: str, text: str) -> str:
    return f'<{tag} class="{kind}">{escape(text)}</{tag}>'


def _definitions(kind: str, pairs: Iterable[Sequence[str]]) -> str:
    """Return names with what is said of each."""
    inner = (f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in pairs)
    return f'<dl class="{kind}">{"".join(inner)}</dl>'


def _index(clip_index: int | None) -> str:
    return "" if clip_index is None else f"/{clip_index}"


def _figures(pairs: list[Pair], findings: list[Finding]) -> Iterator[str]:
    names = ", then ".join(["the source", *(pairs[0].psnr_db if pairs else ())])
    if pairs:
        yield (
            f"<p>From left to right: {escape(names)}. The worst and the best of"
            f" {DRAWN_PER_PAIR} times as many clips drawn at random, the worst first.</p>"
        )
    for pair in pairs:
        scores = ", ".join(f"{name} {value:.2f} dB" for name, value in pair.psnr_db.items())
        data = base64.b64encode(pair.webp).decode()
        yield (
            f'<figure><img alt="{escape(names)}" src="data:image/webp;base64,{data}"><figcaption>'
            f"<b>{escape(scores)}</b> · {escape(pair.clip_id)}<br>{escape(pair.caption)}"
            "</figcaption></figure>\n"
        )
    for found in findings:
        yield f"<p>{escape(found.where)}: {escape(found.detail)}</p>\n"


def _charts(statistics: Statistics, histograms: LatentHistograms) -> Iterator[str]:
    for name, sums in statistics.total.latents.items():
        yield (
            f"<h3>{escape(name)}: latents</h3><p>Mean of each channel, and one standard deviation"
            f" to either side, over {sums.cells} cells of all clips.</p>{latents_chart(sums)}\n"
            f"<p>How the values of each channel are distributed, in {histograms.clips} clips drawn"
            f" at random: from {REACH} standard deviations below its mean to {REACH} above, and"
            " what share lies beyond. The line is the normal distribution with that mean and"
            f" deviation.</p>{histogram_charts(sums, histograms.counts[name])}\n"
        )
    if histograms.unread:
        yield (
            f"<p>{len(histograms.unread)} more could not be read, which <code>verify</code> looks"
            f" into: {escape(histograms.unread[0])}</p>\n"
        )
    for name, levels in statistics.total.levels.items():
        yield (
            f"<h3>{escape(name)}: code indices</h3><p>How often each channel takes each of its"
            f" levels in {levels.cells} code indices; the line is where all are taken alike. Below:"
            f" so many levels, taken alike, would say as much.</p>{levels_charts(levels)}\n"
        )
