"""One HTML file that fetches nothing. It shows all that the page says, and clips move."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import AbstractContextManager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.dataset.statistics import clip_name
from pipeline.operations.report.html import write_html
from pipeline.operations.report.page import report
from pipeline.operations.report.pairs import animated, draw_pairs
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, sound, write_log
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
        self.fetched += [v for n, v in attrs if n == "xlink:href" and not str(v).startswith("#")]
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
    assert re.findall(r"url\((?!#)", text) == []
    for words in (
        "12 (66.7 %)",
        "u-1/bad0",
        "u-2/k1/0",
        "made by a test",
        "21 · 105 frames",
        "over 312 cells",
        "in 21 random clips",
    ):
        assert words in read.text
    assert text.count("<svg") == 1 + 4 + 5 + 1, "moments, latents, codes, rates"
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)


def test_clips_move_the_worst_first(corpus: Store, tmp_path: Path) -> None:
    store = corpus
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


def test_a_source_that_is_gone_is_said(
    corpus: Store, tmp_path: Path, without_source: Callable[[], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "page.html"
    with without_source():
        assert write_html(corpus, str(path), pairs=1).pairs == 0
    assert re.search(r"hiker\.mp4/\d: .*hiker\.mp4", Reader(path.read_text()).text)


def test_names_and_captions_are_text(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "<b>&"))
    write_log(store, [commit(store, decoded_back(deliver("u<i>"), 30.5, 33.0, 28.91))])
    path = tmp_path / "page.html"
    write_html(store, str(path))
    text = Reader(path.read_text()).text
    assert f"{store.uri}" in text
    assert clip_name("u<i>/k3/0") in text, "the clip that came back worst"


def test_an_empty_dataset(local: Store, tmp_path: Path) -> None:
    write_log(local, [])
    path = tmp_path / "page.html"
    write_html(local, str(path))
    text = path.read_text()
    Reader(text)
    assert "<svg" not in text
    assert text.count("None.") == 7


def test_examples_are_few_and_of_every_reason(local: Store) -> None:
    write_log(local, [commit(local, deliver(f"u-{n}", lost=[n], unreadable=2)) for n in range(5)])
    found = report(local).status.examples
    assert {reason: len(rows) for reason, rows in found.items()} == {
        "corrupt": 3,
        "non_finite": 3,
        "too_short": 3,
    }
    page = "\n".join(report(local).lines())
    assert "| too_short | u-0/short0 | frames: 2 in 0.25 s; a clip" in page
    assert "| corrupt | u-0/bad0 | - |" in page
    [part, *_] = read_manifest(local).quarantine_parts()
    local.write(part.path, b"PAR1")
    first, second, _ = report(local).status.examples["too_short"]
    assert first.name == ""
    assert "verify" in first.detail
    assert second.name == "u-1/short0"


def test_pairs_need_a_file(local: Store) -> None:
    sound(local)
    done = CliRunner().invoke(app, ["report", local.uri, "--pairs", "2"])
    assert done.exit_code == 2
    assert done.stdout == ""


def test_the_first_numbers(local: Store, tmp_path: Path) -> None:
    sound(local)
    path = tmp_path / "page.html"
    write_html(local, str(path))
    facts = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", path.read_text())[:5]
    assert facts == [
        ("clips", "21"),
        ("of source", "10.5 s"),
        ("of 14.2 s decoded kept", "73.7 %"),
        ("of 18 samples kept", "66.7 %"),
        ("samples and clips quarantined", "6"),
    ]


def test_numbers_stand_at_the_right(local: Store, tmp_path: Path) -> None:
    write_log(local, [commit(local, deliver("u", batches=(600, 600)))])
    path = tmp_path / "page.html"
    write_html(local, str(path))
    text = path.read_text()
    [row] = re.findall(r"<tr>(<td[^>]*>5x16x16</td>.*)</tr>", text)
    assert re.findall(r'<td class="(\w)">', row) == ["l", *"rrrrrrr"]
    assert "<dt>clips</dt><dd>1\u202f200</dd>" in text


def test_a_part_that_is_missing_is_said(local: Store, tmp_path: Path) -> None:
    [record] = [commit(local, deliver("u"))]
    write_log(local, [record])
    local.delete(record.parts[0].path)
    path = tmp_path / "page.html"
    assert write_html(local, str(path)).exit_code == 0
    text = Reader(path.read_text()).text
    left = sum(part.rows for part in record.parts[1:])
    assert f"in {left} random clips" in text
    assert f"{record.parts[0].rows} more clips could not be read" in text
    assert record.parts[0].path in text


def test_a_long_clip_is_shown_in_part_at_its_own_pace() -> None:
    rng = np.random.default_rng(0)
    image = Image.open(io.BytesIO(animated(rng.integers(0, 255, (50, 8, 8, 3), np.uint8), 0.125)))
    assert getattr(image, "n_frames", 0) == 33
    image.load()
    assert image.info["duration"] == 125
