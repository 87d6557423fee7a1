"""The page in Chromium: all of it is painted and legible, and nothing is asked of a network."""

import json
import platform
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.operations.report.html import write_html
from pipeline.storage.store import Store

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and platform.machine() != "x86_64",
    reason="no Chromium for this machine in the extra",
)

BROWSER = Path(__file__).with_name("browser.py")
LEAST_CONTRAST = 4.5
"""For text that is not large: WCAG 2.2, AA."""


@pytest.fixture(scope="module")
def page(corpus: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "page.html"
    write_html(corpus, str(path), pairs=1)
    return path


def look(page: Path, width: int, scheme: str, picture: Path) -> dict[str, Any]:
    """Return what browser.py prints, and write its picture."""
    done = subprocess.run(
        [sys.executable, str(BROWSER), str(page), str(width), scheme, str(picture)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    missing = re.search(r"ImportError: (\S+\.so[.\d]*): cannot open shared object", done.stderr)
    if missing:
        pytest.skip(f"Chromium needs a system library that is not here: {missing[1]}")
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def luminance(color: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(color: str, behind: str) -> float:
    """Return the ratio of two opaque colours as CSS computes them: `rgb(…)`."""
    low, high = sorted(
        luminance(tuple(int(part) / 255 for part in re.findall(r"\d+", text)))
        for text in (color, behind)
    )
    return (high + 0.05) / (low + 0.05)


def overlap(one: list[float], other: list[float]) -> bool:
    return all(one[i] < other[i + 2] - 1 and other[i] < one[i + 2] - 1 for i in (0, 1))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_painted(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    seen = look(page, width, scheme, tmp_path / f"{scheme}-{width}.png")
    assert seen["messages"] == []
    assert seen["requests"] == [page.as_uri()]
    assert (seen["width"], seen["scroll_width"]) == (width, width)
    assert seen["dark"] == (scheme == "dark")
    assert (contrast(seen["paper"], "rgb(0, 0, 0)") < 2) == (scheme == "dark")

    names = [heading["text"] for heading in seen["headings"]]
    assert names[1:] == [
        "Counts",
        "Filtered",
        "Quarantine",
        "Clips and what their tokens decode to",
        "Quality",
        "Latents and codes",
        "kl: latents",
        "fsq: code indices",
        "Files",
        "Work",
        "Runs",
    ]
    assert [image["frames"] for image in seen["images"]] == [5, 5]
    assert all(image["width"] == 3 * 40 for image in seen["images"])
    labels = [chart["label"] for chart in seen["charts"]]
    assert len(labels) == 1 + 8 + 6 + 1, "moments, latents, codes, rates"
    picture = Image.open(tmp_path / f"{scheme}-{width}.png").convert("RGB")
    assert picture.size == (width, seen["height"])
    for thing in (*seen["headings"], *seen["images"], *seen["charts"]):
        left, top, right, bottom = thing["box"]
        assert right > left
        assert bottom > top
        region = picture.crop((left, top, min(right, width), bottom))
        assert any(low < high for low, high in region.getextrema()), f"not painted: {thing}"

    for text in seen["texts"]:
        assert contrast(text["color"], text["behind"]) >= LEAST_CONTRAST, text
        assert text["pixels"] >= 9, text
    for chart in seen["charts"]:
        for one, other in combinations(chart["texts"], 2):
            assert not overlap(one["box"], other["box"]), (one, other)
        for text in chart["texts"]:
            assert text["box"][0] >= chart["box"][0] - 1, text
            assert text["box"][2] <= chart["box"][2] + 1, text


def test_the_browser_tells_what_a_page_does(tmp_path: Path) -> None:
    """Without this the test above might look at nothing."""
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><h1>Title</h1><p style='color: #aaa'>pale</p>"
        "<script>console.log('said')</script><div style='width: 900px'>wide</div>"
        "<svg aria-label=none></svg><script src='https://example.com/a.js'></script>"
    )
    seen = look(page, 360, "light", tmp_path / "picture.png")
    assert "said" in seen["messages"]
    assert seen["requests"] == [page.as_uri(), "https://example.com/a.js"]
    assert seen["scroll_width"] > 900
    [pale] = [text for text in seen["texts"] if text["text"] == "pale"]
    assert contrast(pale["color"], pale["behind"]) < 3
