"""Inputs of kinds that people report, each with its control: what one fault costs, and what not."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from pipeline.quarantine import Quarantined
from pipeline.records import Span
from tests.pipeline.sources.reading import read_all
from tests.pipeline.tars import make_tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plain.mp4").write_bytes(b"video")
    return tmp_path


def outcomes(folder: Path, name: str, content: bytes, **lists: Any) -> list[Any]:
    """Return the caption of each sample and the reason of each record, by key."""
    (folder / name).write_bytes(content)
    found = read_all(str(folder / name), lists=lists)
    return [(o.key, o.reason if isinstance(o, Quarantined) else o.caption) for o in found]


@pytest.mark.parametrize(
    ("broken", "reason"), [(b"", None), (b" \\ud83d", None), (b'"', "bad_row")]
)
def test_one_caption_of_many(folder: Path, broken: bytes, reason: str | None) -> None:
    rows = [b'{"video": "plain.mp4", "caption": "row %d"}' % n for n in range(300)]
    rows[150] = b'{"video": "plain.mp4", "caption": "row 150%b"}' % broken
    found = outcomes(folder, "l.jsonl", b"\n".join(rows), caption="caption")
    own = found.pop(150)[1]
    assert found == [(str(n), f"row {n}") for n in range(300) if n != 150]
    assert own == reason or (reason is None and str(own).startswith("row 150"))


def test_optional_columns(folder: Path) -> None:
    rows = b'{"video": "plain.mp4"}\n'
    rows += b'{"video": "plain.mp4", "caption": "from 1 to 2", "start": 1, "end": 2}\n'
    (folder / "l.jsonl").write_bytes(rows)
    lists = {"caption": "caption", "start_s": "start", "end_s": "end"}
    whole, part = read_all(str(folder / "l.jsonl"), lists=lists)
    assert (whole.caption, whole.span) == (None, None)
    assert (part.caption, part.span) == ("from 1 to 2", Span(start_s=1, end_s=2))


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(
    "bad",
    [
        b'plain.mp4,"a 6" pipe, "seen" from above"',
        b'plain.mp4,"never closed',
        b'plain.mp4,"',
        "plain.mp4,un café à Paris".encode("latin-1"),
        b"plain.mp4",
        b"nosuch://bucket/plain.mp4,caption",
        b"plain.mp4,with,more",
    ],
)
def test_a_bad_row_of_a_csv(folder: Path, at: int, bad: bytes) -> None:
    rows = [b"plain.mp4,first", b"plain.mp4,third"]
    rows.insert(at, bad)
    text = b"\n".join([b"video,caption", *rows]) + b"\n"
    found = outcomes(folder, "l.csv", text, caption="caption")
    assert found.pop(at) == (str(at), "bad_row")
    assert [caption for _, caption in found] == ["first", "third"]


def test_a_long_field(folder: Path) -> None:
    text = b"video,caption,words\nplain.mp4,first," + b"w " * 70_000 + b"\nplain.mp4,second,short\n"
    found = outcomes(folder, "l.csv", text, caption="caption", rows_per_unit=1)
    assert found == [("0", "first"), ("1", "second")]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_two_archives(tmp_path: Path, pack: Any, suffix: str) -> None:
    tars = [make_tar([(f"{n}.mp4", b"v"), (f"{n}.txt", n.encode())]) for n in ("one", "two")]
    assert outcomes(tmp_path, f"a.{suffix}", pack(tars[0])) == [("one", "one")]
    both = b"".join(map(pack, tars))
    assert outcomes(tmp_path, f"a.{suffix}", both) == [("one", "one"), ("two", "two")]
    cut = outcomes(tmp_path, f"a.{suffix}", both[: -len(pack(tars[1])) + 20])
    assert cut[0] == ("one", "one")
    assert cut[1][1] in ("tar_truncated", "tar_unreadable")


def test_names(tmp_path: Path) -> None:
    names = ["UPPER.MP4", "a&b=c;d.mp4", "br[1].mp4", "hash#1.mp4", "per%20cent.mp4", "plus+.mp4"]
    names += ["question?.mp4", "re\u0301sume\u0301.mp4", "with space.mp4", "x::y.mp4", "{1,2}.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(b"video")
    found = read_all(str(tmp_path))
    assert sorted(sample.key for sample in found) == sorted(names)
    by_pattern = read_all(f"{tmp_path}/*")
    assert [sample.video for sample in by_pattern] == [sample.video for sample in found]
    for name in names:  # one by one, as a path and as a URI
        for uri in (str(tmp_path / name), (tmp_path / name).as_uri()):
            [sample] = read_all(uri)
            assert (sample.key, sample.video) == (name, str(tmp_path / name))
