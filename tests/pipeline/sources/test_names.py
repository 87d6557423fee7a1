"""Names that are not UTF-8: their samples are read, under keys that are escaped."""

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config.source import VideoSource
from pipeline.records import WorkUnit, from_json, to_json
from pipeline.sources.planning import plan_units
from pipeline.sources.text import escaped_name
from tests.pipeline.sources.reading import read_all
from tests.pipeline.tars import make_tar

CAFE = os.fsdecode(b"caf\xe9")
ESCAPED = r"caf\xe9"


def unescaped(key: str) -> bytes:
    """Return the bytes of an escaped name."""
    parts = re.split(r"\\x([0-9a-f]{2})", key)
    return b"".join(bytes.fromhex(part) if n % 2 else part.encode() for n, part in enumerate(parts))


pieces = st.binary(max_size=3) | st.sampled_from(
    [b"\\", b"x", b"\\xe9", b"\\x5c", b"\xe9", "é".encode(), b"e9", b"5c", b"/", b"\xed\xa0\x80"]
)


@given(st.lists(pieces, max_size=8).map(b"".join))
@example(b"\\\xe9")
@example(b"\\x\xe9")
@example(b"\\x5cxe9")
def test_the_escape_loses_nothing(name: bytes) -> None:
    """Its inverse exists, so two names never become one key."""
    key = escaped_name(os.fsdecode(name))
    key.encode("utf-8")
    assert unescaped(key) == name


@given(st.text(st.characters(codec="utf-8")))
@example("C:\\videos\\xenon.mp4")
def test_ordinary_names_stay(name: str) -> None:
    if re.search(r"\\x[0-9a-f]{2}", name) is None:
        assert escaped_name(name) == name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that is not UTF-8, of files of which some are not."""
    folder = tmp_path / f"{CAFE}s"
    folder.mkdir()
    for name in (f"{CAFE}.mp4", f"{CAFE}.{CAFE}", "a.mp4", f"a.{CAFE}", f"{ESCAPED}.mp4"):
        (folder / name).write_bytes(b"content")
    (folder / f"{CAFE}.txt").write_text("a dog")
    return folder


def test_in_a_folder(folder: Path) -> None:
    for uri in (folder.as_uri(), f"{folder.as_uri()}/*.mp4"):
        source = VideoSource(uri=[uri])
        units = plan_units(source)
        assert [from_json(WorkUnit, to_json(unit)) for unit in units] == units
        found = {sample.key: sample for sample in read_all(uri)}
        assert sorted(found) == ["a.mp4", r"caf\x5cxe9.mp4", rf"{ESCAPED}.mp4"]
        cafe = found[f"{ESCAPED}.mp4"]
        assert (cafe.video, cafe.caption) == (b"content", "a dog")
        assert json.loads(cafe.meta) == json.loads(found["a.mp4"].meta) == {ESCAPED: "content"}
        assert found[r"caf\x5cxe9.mp4"].meta is None
        assert plan_units(source) == units, "ids of units are stable"


def test_as_sources_and_in_exclude(folder: Path) -> None:
    [sample] = read_all((folder / f"{CAFE}.mp4").as_uri())
    assert sample.key == f"{ESCAPED}.mp4"
    left = [sample.key for sample in read_all(folder.as_uri(), exclude=["*/caf%E9.mp4"])]
    assert left == ["a.mp4", r"caf\x5cxe9.mp4"]
    assert [s.key for s in read_all(folder.as_uri(), exclude=[r"caf*"])] == ["a.mp4"]


def test_in_a_tar(tmp_path: Path) -> None:
    members = [(f"{name}.{end}", b"x") for name in (CAFE, ESCAPED) for end in ("mp4", f"{CAFE}")]
    for format_name in ("", CAFE):
        path = tmp_path / f"{format_name}t.tar"
        path.write_bytes(make_tar(members))
        first, second = read_all(path.as_uri())
        assert (first.key, second.key) == (ESCAPED, r"caf\x5cxe9")
        assert json.loads(first.meta) == json.loads(second.meta) == {ESCAPED: "x"}


def test_in_lists(folder: Path) -> None:
    rows = [f"{CAFE}.mp4", (folder / f"{CAFE}.mp4").as_uri(), f"{ESCAPED}.mp4", "gone\udce9.mp4"]
    path = folder / f"{CAFE}.jsonl"
    path.write_text("".join(json.dumps({"video": row}) + "\n" for row in rows))
    cafe, same, other, gone = read_all(path.as_uri())
    assert (cafe.video, same.video) == (b"content", b"content")
    assert other.video == b"content"
    assert gone.reason == "file_unreadable"
    assert "gone" in gone.detail
    to_json(gone)
    keys = pa.array([b"caf\xe9", b"caf\\xe9", b"b"], pa.binary())
    table = pa.table({"video": [f"{folder.as_uri()}/a.mp4"] * 3, "key": keys})
    pq.write_table(table, folder.parent / "l.parquet")
    found = read_all(f"{folder.parent}/l.parquet", lists={"key": "key"})
    assert [sample.key for sample in found] == [ESCAPED, r"caf\x5cxe9", "b"]
