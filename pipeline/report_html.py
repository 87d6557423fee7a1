"""The page about a dataset as one HTML file: nothing in it is fetched, so it can be sent around.

What the Markdown says, and what that cannot: charts, examples of the quarantine, and clips beside
what their tokens decode to.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from pipeline.findings import Finding
from pipeline.parquet import open_parquet
from pipeline.report_charts import latents_chart, levels_chart, rates_chart, stage_rates
from pipeline.report_page import Block, Page, Table, report
from pipeline.report_pairs import DRAWN_PER_PAIR, Pair, draw_pairs
from pipeline.statistics import Statistics, clip_lines, read_statistics
from pipeline.storage import Store
from pipeline.summary import format_bytes

EXAMPLES: Final = 3
"""Quarantined samples or clips that are named for each reason."""

_QUARANTINE_FILES: Final = 200
"""Tables that are read for them, at most."""

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #8884; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .2em .9em .2em 0; }
th, td { border-bottom: 1px solid #8883; }
code, td, pre { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; }
svg { width: 100%; height: auto; font-size: 12px; }
svg text { fill: currentColor; }
figure { margin: 1.2em 0; }
figure img { width: 100%; }
figcaption { font-size: .9em; overflow-wrap: anywhere; }
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
    body = "".join(_body(page, read_statistics(store), examples(store, page), shown, findings))
    title = escape(status.output)
    text = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n{body}</html>\n"
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


def _body(
    page: Page,
    statistics: Statistics,
    quarantined: Mapping[str, list[dict[str, Any]]],
    pairs: list[Pair],
    findings: list[Finding],
) -> Iterator[str]:
    yield _html(page.head())
    sections = page.sections()
    yield _section("Counts", _html(sections["Counts"]) + _pre(clip_lines(statistics.total)))
    if pairs or findings:
        yield _section("Clips and what their tokens decode to", "".join(_figures(pairs, findings)))
    yield _section("Latents and codes", "".join(_charts(statistics)))
    named = [
        (reason, f"{row['unit']}/{row['key']}{_index(row['clip_index'])}", row["detail"])
        for reason, rows in quarantined.items()
        for row in rows
    ]
    heads = ("reason", "for example", "detail")
    yield _section("Quarantine", _html([*sections["Quarantine"], Table(heads, named)]))
    yield _section("Files", _html(sections["Files"]))
    rates = rates_chart(stage_rates(page.status.manifest))
    note = "<p>Clips per second of work in one process, over the units in the order of commits:</p>"
    yield _section("Work", _html(sections["Work"]) + (note + rates if rates else ""))
    yield _section("Runs", _html(sections["Runs"]))


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
    head = "".join(f"<th>{escape(cell)}</th>" for cell in block.heads)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in block.rows
    )
    return f"<table><tr>{head}</tr>\n{rows}</table>"


def _pre(lines: Iterable[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _index(clip_index: int | None) -> str:
    return "" if clip_index is None else f"/{clip_index}"


def _figures(pairs: list[Pair], findings: list[Finding]) -> Iterator[str]:
    if pairs:
        names = ", then ".join(["the source", *pairs[0].psnr_db])
        yield (
            f"<p>From left to right: {escape(names)}. The worst and the best of"
            f" {DRAWN_PER_PAIR} times as many clips drawn at random, the worst first.</p>"
        )
    for pair in pairs:
        scores = ", ".join(f"{name} {value:.2f} dB" for name, value in pair.psnr_db.items())
        data = base64.b64encode(pair.webp).decode()
        yield (
            f'<figure><img alt="" src="data:image/webp;base64,{data}"><figcaption>'
            f"<b>{escape(scores)}</b> · {escape(pair.clip_id)}<br>{escape(pair.caption)}"
            "</figcaption></figure>\n"
        )
    for found in findings:
        yield f"<p>{escape(found.where)}: {escape(found.detail)}</p>\n"


def _charts(statistics: Statistics) -> Iterator[str]:
    if statistics.unknown:
        count = len(statistics.unknown)
        yield f"<p>Without {count} units, whose release gathered no statistics.</p>"
    for name, sums in statistics.total.latents.items():
        yield (
            f"<h3>{escape(name)}</h3><p>Mean of each channel, and one standard deviation to either"
            f" side, over {sums.cells} cells.</p>{latents_chart(sums)}\n"
        )
    for name, levels in statistics.total.levels.items():
        yield (
            f"<h3>{escape(name)}</h3><p>How often each channel takes each of its levels in"
            f" {levels.cells} code indices; below it how many levels, used alike, would say as"
            f" much.</p>{levels_chart(levels)}\n"
        )
