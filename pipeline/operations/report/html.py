"""The page about a dataset as one HTML file that fetches nothing, so that it can be sent around.

It shows the blocks of the Markdown page, and also charts, and clips beside what their tokens decode
to. Its text is in `templates/page.html`.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.formatting import counted, format_bytes, labelled, visible
from pipeline.operations.outcome import Outcome
from pipeline.operations.report.blocks import Block, Table
from pipeline.operations.report.latent_histograms import REACH, draw_histograms
from pipeline.operations.report.page import Page, report
from pipeline.operations.report.pairs import DRAWN_PER_PAIR, draw_pairs
from pipeline.operations.scene_bits import SceneBits, scene_bits
from pipeline.storage.access import wrong_settings
from pipeline.storage.store import Store

_PARTS_FOR_BITS: Final = 64
"""Maximum number of parts that are read for the bits per token."""


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
        size = f"{format_bytes(self.bytes)}, {counted(self.pairs, 'clip')} shown"
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
    from pipeline.operations.report import charts  # imports matplotlib

    page = report(store)
    dataset, manifest = page.status.dataset, page.status.manifest
    total = page.status.tally.total
    shown, findings = draw_pairs(store, dataset, manifest, pairs) if pairs else ([], [])
    environment = Environment(
        loader=PackageLoader("pipeline.operations.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    text = environment.get_template("page.html").render(
        page=page,
        with_pairs=pairs > 0,
        pairs=shown,
        findings=findings,
        drawn_per_pair=DRAWN_PER_PAIR,
        total=total,
        histograms=draw_histograms(store, dataset, manifest, total.latents),
        reach=REACH,
        bits={
            name: list(_bits_blocks(bits))
            for name, bits in scene_bits(
                store, dataset, manifest, most_parts=_PARTS_FOR_BITS
            ).items()
        },
        rates=charts.rates_figure(charts.stage_rates(manifest)),
        charts=charts,
        zip=zip,
    )
    with wrong_settings("--html", path):
        Path(path).write_text(text, encoding="utf-8")
    return WrittenPage(page=page, path=path, bytes=len(text.encode()), pairs=len(shown))


def _bits_blocks(bits: SceneBits) -> Iterator[Block]:
    """Yield what the page says of the bits of a token of one tokenizer."""
    text = f"{bits.bits:.2f} of {bits.fixed:.2f} bits, the mean over {counted(bits.clips, 'clip')}"
    text += f"; {bits.least:.2f} in the clip with the fewest, {bits.most:.2f} in that with the most"
    yield f"{text}. {bits.repeats:.1%} of the tokens repeat."
    rows = [
        (measure, f"≤ {group.most:.3g}", group.clips, f"{group.bits:.2f}")
        for measure, groups in bits.by.items()
        for group in groups
    ]
    if rows:
        heads = ("fifths of the clips by", "values", "clips", "bits per token")
        yield Table("llrr", heads, rows)
