"""One value means the same in a list, in a sidecar of a folder, and in a tar."""

import base64
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quarantine import Quarantined
from pipeline.records import Sample, to_json
from pipeline.sources.sidecars import Sidecars
from pipeline.sources.text import (
    PROBLEMS,
    caption_of,
    decoded,
    json_value,
    meta_text,
    num_bytes,
    texts_within,
    valid_text,
)
from tests.pipeline.sources.reading import read_all
from tests.pipeline.tars import make_tar

HALF = "\ud83d"


def by_door(folder: Path, value: str) -> dict[str, tuple[str | None, Any]]:
    """Return the caption and its JSON from `{"caption": <value>}` in a list, a folder and a tar."""
    text = f'{{"caption": {value}}}'
    for name in ("list", "folder"):
        (folder / name).mkdir()
        (folder / name / "a.mp4").write_bytes(b"video")
    (folder / "list/l.jsonl").write_text(f'{{"video": "a.mp4", {text[1:]}\n')
    (folder / "folder/a.json").write_text(text)
    (folder / "t.tar").write_bytes(make_tar([("a.mp4", b"video"), ("a.json", text.encode())]))
    found = {}
    for door, uri in (("list", "list/l.jsonl"), ("folder", "folder"), ("tar", "t.tar")):
        lists = {"caption": "caption"} if door == "list" else {}
        [sample] = read_all(str(folder / uri), lists=lists)
        assert isinstance(sample, Sample)
        meta = json.loads(sample.meta or "{}", parse_constant=pytest.fail)
        found[door] = sample.caption, (meta if door == "list" else meta["json"]).get("caption")
    return found


@pytest.mark.parametrize(
    ("value", "caption", "kept"),
    [
        ('" a dog "', "a dog", None),
        ('""', None, None),
        ("null", None, None),
        ("NaN", None, None),
        ("Infinity", None, None),
        ('["a dog", "a cat"]', "a dog", ["a dog", "a cat"]),
        ('["", null, "a cat"]', "a cat", ["", None, "a cat"]),
        ("[]", None, []),
        ('{"en": "a dog"}', None, {"en": "a dog"}),
        ("true", None, True),
        ("3", None, 3),
        ('"half \\ud83d"', "half ?", None),
        ('["half \\ude00"]', "half ?", ["half ?"]),
        ('"whole \\ud83d\\ude00"', "whole 😀", None),
    ],
)
def test_a_caption_is_the_same_by_every_door(
    tmp_path: Path, value: str, caption: str | None, kept: Any
) -> None:
    found = by_door(tmp_path, value)
    assert {door: text for door, (text, _) in found.items()} == dict.fromkeys(found, caption)
    assert found["list"][1] == kept
    if kept is not None:
        assert found["folder"][1] == found["tar"][1] == kept


def test_bytes_are_text_or_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    columns = {
        "video": ["a.mp4"] * 2,
        "words": pa.array(["un café".encode(), "un café".encode("latin-1")], pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    good, bad = read_all(str(tmp_path / "l.parquet"), lists={"caption": "words"})
    assert (good.caption, json.loads(good.meta or "")) == ("un café", {"video": "a.mp4"})
    data = base64.b64encode("un café".encode("latin-1")).decode()
    fault = {"words": "not UTF-8 at byte 6"}
    assert bad.caption is None
    assert json.loads(bad.meta or "") == {
        "words": {"base64": data},
        "video": "a.mp4",
        PROBLEMS: fault,
    }
    caption, meta = Sidecars({"txt": "un café".encode("latin-1")}).caption_and_meta(64)
    assert caption is None
    assert json.loads(meta or "")[PROBLEMS] == {"txt": fault["words"]}


class TestHalfASurrogatePair:
    """Arrow and JSON refuse it; the text of one row does not cost its unit."""

    ROWS = (
        {"video": "a.mp4", "id": "a", "words": "one", "x": {"k": "v"}},
        {"video": "a.mp4", "id": f"b{HALF}", "words": f"two {HALF}", "x": {f"k{HALF}": f"v{HALF}"}},
        {"video": f"a{HALF}.mp4", "id": "c", "words": "three", "x": {}},
        {"video": "a.mp4", "id": "d", "words": [f"{HALF}"], f"x{HALF}": [f"{HALF}"]},
        {"video": "a.mp4", "id": f"b{HALF}", "words": "again", "x": {}},
        {"video": "a.mp4", "id": "e", "words": "six", "x": {}, "from": HALF},
        {"video": "a.mp4", "id": "f", "words": "seven", "x": {}, "from": 1},
    )

    def test_in_a_list(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"video")
        lines = [json.dumps(row) + "\n" for row in self.ROWS]
        (tmp_path / "l.jsonl").write_text("".join(lines))
        lists = {"key": "id", "caption": "words", "start_s": "from"}
        outcomes = read_all(str(tmp_path / "l.jsonl"), lists=lists)
        found = [(o.key, o.reason if isinstance(o, Quarantined) else o.caption) for o in outcomes]
        assert found == [
            ("a", "one"),
            ("b?", "two ?"),
            ("c", "file_unreadable"),
            ("d", "?"),
            ("b?", "duplicate_key"),
            ("e", "bad_row"),
            ("f", "seven"),
        ]
        assert all(map(to_json, outcomes))
        with pytest.raises(ValueError, match="surrogates"):  # the control: it can fail
            to_json(replace(outcomes[0], key=HALF))
        assert json.loads(outcomes[1].meta or "")["x"] == {"k?": "v?"}

    def test_in_a_tar_and_its_sidecars(self, tmp_path: Path) -> None:
        members = [("a.mp4", b"1"), ("a.json", b'{"text": "\\ud83d", "x": "\\ude00"}')]
        (tmp_path / "t.tar").write_bytes(make_tar([*members, ("b.mp4", b"2")]))
        first, second = read_all(str(tmp_path / "t.tar"))
        assert (first.key, first.caption, second.key) == ("a", "?", "b")
        assert json.loads(first.meta or "") == {"json": {"text": "?", "x": "?"}}

    def test_in_the_names_of_a_folder(self, tmp_path: Path) -> None:
        """A local name that is not UTF-8 has an escaped key: its file can be read."""
        for name in (b"a.mp4", b"caf\xe9.mp4", b"caf\xe9.txt", b"z.mp4"):
            (tmp_path / os.fsdecode(name)).write_bytes(name)
        outcomes = read_all(str(tmp_path))
        assert [(o.key, o.video) for o in outcomes] == [
            ("a.mp4", f"{tmp_path}/a.mp4"),
            ("caf\\xe9.mp4", b"caf\xe9.mp4"),
            ("z.mp4", f"{tmp_path}/z.mp4"),
        ]
        assert json.loads(outcomes[1].meta or "")[PROBLEMS] == {"txt": "not UTF-8 at byte 3"}


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters()), anything, max_size=4))
def test_any_value_is_json_that_all_can_read(values: dict[str, Any]) -> None:
    text = meta_text(json_value(values)) or "{}"
    json.loads(text.encode("utf-8"), parse_constant=pytest.fail)
    for value in values.values():
        (caption_of(json_value(decoded(value)[0])) or "").encode("utf-8")


@given(st.text())
def test_good_text_is_kept(text: str) -> None:
    assert valid_text(text) == text
    assert decoded(text) == (text, None)


def test_numbers() -> None:
    assert json_value([1.5, math.nan, -math.inf, 7, True]) == [1.5, None, None, 7, True]


class TestLimitOfTexts:
    @given(
        sizes=st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 1500)),
        words=st.integers(0, 1500),
        max_kb=st.integers(1, 3),
    )
    def test_what_does_not_fit_is_named(
        self, sizes: dict[str, int], words: int, max_kb: int
    ) -> None:
        values = {name: "é" * size for name, size in sizes.items()}
        caption, text = texts_within("é" * words or None, dict(values), max_kb, "caption")
        found = json.loads(text or "{}")
        problems = found.pop(PROBLEMS, {})
        assert num_bytes(text) <= 1000 * max_kb
        assert found.items() <= values.items()
        if "*" not in problems:
            assert (caption is None) == (words == 0 or "caption" in problems)
            assert set(problems) - {"caption"} == set(values) - set(found)
        assert all(f"source.max_meta_kb = {max_kb}" in problem for problem in problems.values())
        if found and (left := set(values) - set(found)):
            assert max(sizes[name] for name in found) <= min(sizes[name] for name in left)

    @pytest.mark.parametrize("kind", ["tar", "files", "list"])
    def test_of_a_sample(self, kind: str, tmp_path: Path) -> None:
        """The video is read; what is left out is named with its size and the setting."""
        info, small = {"formats": ["x" * 50] * 2000}, {"id": 1}
        sidecars = {"info.json": json.dumps(info), "json": json.dumps(small)}
        if kind == "list":
            row = {"video": "v.mp4", "info.json": json.dumps(info), "json": small}
            (tmp_path / "v.mp4").write_bytes(b"v")
            source = tmp_path / "l.jsonl"
            source.write_text(json.dumps(row))
        else:
            source = tmp_path / "a.tar" if kind == "tar" else tmp_path / "v"
            members = [("v.mp4", b"v"), *((f"v.{end}", t.encode()) for end, t in sidecars.items())]
            if kind == "tar":
                source.write_bytes(make_tar(members))
            else:
                source.mkdir()
                for name, content in members:
                    (source / name).write_bytes(content)
        [sample] = read_all(str(source))
        meta = json.loads(sample.meta)
        assert meta["json"] == small
        assert "info.json" not in meta
        assert "more than source.max_meta_kb = 64 takes" in meta[PROBLEMS]["info.json"]
        [sample] = read_all(str(source), max_meta_kb=200)
        assert json.loads(json.loads(sample.meta)["info.json"]) == info
        assert PROBLEMS not in json.loads(sample.meta)
