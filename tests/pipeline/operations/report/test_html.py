"""One file that fetches nothing, in which everything that the page says stands, and clips move."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.dataset.statistics import LatentSums, LevelCounts
from pipeline.errors import StoreError
from pipeline.operations.report.charts import (
    histogram_charts,
    latents_chart,
    levels_charts,
    rates_chart,
    stage_rates,
)
from pipeline.operations.report.html import _block, _grouped, examples, write_html
from pipeline.operations.report.latent_histograms import EDGES
from pipeline.operations.report.page import ReportTable, report
from pipeline.operations.report.pairs import animated, draw_pairs
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, sound, write_log
from tests.pipeline.tokenized import hikers
from tests.pipeline.units import decoded_back, deliver

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Holds tags to be closed in order, and collects what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], "tags that nothing closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """It is closed already."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def test_what_the_markdown_says_and_more(local: Store, tmp_path: Path) -> None:
    sound(local)
    path = tmp_path / "page.html"
    written = write_html(local, str(path))
    assert (written.exit_code, written.pairs) == (0, 0)
    assert written.bytes == path.stat().st_size
    text = path.read_text()
    read = Reader(text)
    assert read.fetched == []
    assert "@import" not in text
    assert "url(" not in text
    for words in (
        "12 (66.7 %)",
        "u-1/bad0",
        "u-2/k1/0",
        "made by a test",
        "21 · 105 frames",
        "over 312 cells",
        "in 21 clips drawn at random",
    ):
        assert words in read.text
    assert text.count("<svg") == 1 + 4 + 5 + 1, "moments, latents, codes, rates"
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)


def test_clips_move_the_worst_first(tmp_path: Path) -> None:
    store = hikers(tmp_path)
    path = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", store.uri, "--html", str(path), "--pairs", "1"])
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("kB, 2 clips shown\n")
    read = Reader(path.read_text())
    assert len(read.fetched) == 2
    for source in read.fetched:
        kind, data = source.split(",")
        assert kind == "data:image/webp;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (image.size, getattr(image, "n_frames", 1)) == ((3 * 40, 32), 5)
    manifest = read_manifest(store)
    every, findings = draw_pairs(store, report(store).status.dataset, manifest, 100)
    assert findings == []
    assert len(every) == manifest.counts().clips_written
    means = [pair.mean_db for pair in every]
    assert means == sorted(means)
    first, last = re.findall(r"fsq [\d.]+ dB, kl [\d.]+ dB", read.text)
    drawn = {read_row(store, row)["clip_id"] for row in draw_rows(manifest, 4, 0)}
    assert len(every) > len(drawn) == 4
    candidates = [pair for pair in every if pair.clip_id in drawn]
    for text, pair in ((first, candidates[0]), (last, candidates[-1])):
        assert text == f"fsq {pair.psnr_db['fsq']:.2f} dB, kl {pair.psnr_db['kl']:.2f} dB"


def test_a_source_that_is_gone_is_said(tmp_path: Path) -> None:
    store = hikers(tmp_path)
    (tmp_path / "in/hiker.mp4").unlink()
    path = tmp_path / "page.html"
    assert write_html(store, str(path), pairs=1).pairs == 0
    assert re.search(r"hiker\.mp4/\d: .*hiker\.mp4", Reader(path.read_text()).text)


def test_names_and_captions_are_text(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "<b>&"))
    write_log(store, [commit(store, decoded_back(deliver("u<i>"), 30.5, 33.0, 28.91))])
    path = tmp_path / "page.html"
    write_html(store, str(path))
    text = Reader(path.read_text()).text
    assert f"{store.uri}" in text
    assert "u<i>/k3/0" in text, "the clip that came back worst"


def test_an_empty_dataset(local: Store, tmp_path: Path) -> None:
    write_log(local, [])
    path = tmp_path / "page.html"
    write_html(local, str(path))
    text = path.read_text()
    Reader(text)
    assert "<svg" not in text
    assert text.count("None.") == 6


def test_examples_are_few_and_of_every_reason(local: Store) -> None:
    write_log(local, [commit(local, deliver(f"u-{n}", lost=[n], unreadable=2)) for n in range(5)])
    found = examples(local, report(local))
    assert {reason: len(rows) for reason, rows in found.items()} == {"corrupt": 3, "non_finite": 3}
    [part, *_] = read_manifest(local).quarantine_parts()
    local.write(part.path, b"PAR1")
    with pytest.raises(StoreError, match=r"quarantine/u-0-.*verify"):
        examples(local, report(local))


def test_pairs_need_a_file(local: Store) -> None:
    sound(local)
    done = CliRunner().invoke(app, ["report", local.uri, "--pairs", "2"])
    assert done.exit_code == 2
    assert done.stdout == ""


def test_rates_by_stage_follow_the_commits(local: Store) -> None:
    write_log(local, [commit(local, deliver(f"u-{n}")) for n in range(130)][:130])
    rates = stage_rates(read_manifest(local))
    assert set(rates) == {"decode", "tokenize", "commit"}
    assert len(rates["decode"]) == 44, "130 units in groups of three"
    assert rates["decode"] == pytest.approx([8 / 1.5] * 44)
    assert rates["tokenize"] == pytest.approx([8 / 0.75] * 44)


def test_the_first_numbers(local: Store, tmp_path: Path) -> None:
    sound(local)
    path = tmp_path / "page.html"
    write_html(local, str(path))
    facts = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", path.read_text())[:4]
    assert facts == [
        ("clips", "21"),
        ("of source", "10.5 s"),
        ("of 18 samples kept", "66.7 %"),
        ("samples and clips quarantined", "6"),
    ]


def test_numbers_stand_at_the_right_and_long_text_in_lines() -> None:
    table = ReportTable(
        ("a", "b", "c"), [("5x16x16", "3 (10.0 %)", "x" * 40), ("all", "12.1 kB", "")]
    )
    cells = re.findall(r'<td class="(\w*)">', _block(table))
    assert cells == ["", "number", "text"] * 2
    assert _grouped(1234567) == "1\u202f234\u202f567"


def test_a_part_that_is_missing_is_said(local: Store, tmp_path: Path) -> None:
    [record] = [commit(local, deliver("u"))]
    write_log(local, [record])
    local.delete(record.parts[0].path)
    path = tmp_path / "page.html"
    assert write_html(local, str(path)).exit_code == 0
    text = Reader(path.read_text()).text
    left = sum(part.rows for part in record.parts[1:])
    assert f"in {left} clips drawn at random" in text
    assert f"{record.parts[0].rows} more could not be read" in text
    assert record.parts[0].path in text


def test_charts_stand_degenerate_numbers() -> None:
    one = LatentSums(cells=1, sums=(0,), squares=(0,))
    for svg in (
        latents_chart(one),
        histogram_charts(one, np.zeros((1, len(EDGES) + 1), np.int64)),
        levels_charts(LevelCounts(counts=((0, 0),))),
        rates_chart({"a": [5.0]}),
        rates_chart({"a": [0.0, 3.0], "b": [0.0, 0.0]}),
    ):
        ET.fromstring(svg)
    assert rates_chart({}) == rates_chart({"a": [0.0]}) == ""


def test_a_bar_is_as_high_as_its_level_is_frequent() -> None:
    root = ET.fromstring(levels_charts(LevelCounts(counts=((30, 10),))))
    one, other = (float(bar.get("height", "")) for bar in root.iter("rect"))
    assert one / other == pytest.approx(3, rel=0.01)


def test_a_histogram_is_as_high_as_its_bin_is_full() -> None:
    """The path of its steps, against the normal distribution of the same area."""
    share = np.diff([0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in EDGES])
    counts = np.array([[0, *np.rint(1e6 * share), 0], [500, *[0] * 40, 1500, 0]], np.int64)
    two = LatentSums(cells=1, sums=(0, 0), squares=(0, 0))
    normal, spike = ET.fromstring(histogram_charts(two, counts))
    path, line = normal[0]
    tops = [float(y) for y in re.findall(r"V([\d.]+)H", path.get("d", ""))]
    curve = [float(point.split(",")[1]) for point in line.get("points", "").split()]
    middles = [(a + b) / 2 for a, b in pairwise(curve)]
    assert tops == pytest.approx(middles, abs=0.3)
    assert min(tops) == pytest.approx(0, abs=0.3)
    rights = [float(x) for x in re.findall(r"H([\d.]+)", path.get("d", ""))]
    points = [float(point.split(",")[0]) for point in line.get("points", "").split()]
    assert rights == points[1:]
    assert "beyond: 25.00 %" in "".join(spike.itertext())
    assert "beyond: 0.00 %" in "".join(normal.itertext())


def test_a_long_clip_is_shown_in_part_at_its_own_pace() -> None:
    rng = np.random.default_rng(0)
    image = Image.open(io.BytesIO(animated(rng.integers(0, 255, (50, 8, 8, 3), np.uint8), 0.125)))
    assert getattr(image, "n_frames", 0) == 33
    image.load()
    assert image.info["duration"] == 125
