import json
import os
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.quarantine import REASONS, Quarantined
from pipeline.records import LooseFile, Sample, WorkUnit
from pipeline.sources.sidecars import MAX_SIDECAR_BYTES, Sidecars
from pipeline.sources.text import PROBLEMS
from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server
from tests.pipeline.sources.reading import read_all, read_samples, units_of
from tests.pipeline.tars import Files, files_of, good_tars, make_tar, member_offsets

Outcome = Sample | Quarantined


def read_tar(tar: bytes, folder: Path, *, max_video_mb: float = 1) -> list[Outcome]:
    path = folder / "shard.tar"
    path.write_bytes(tar)
    [unit] = units_of([str(path)])
    outcomes = list(read_samples(unit, max_video_mb=max_video_mb))
    for outcome in outcomes:
        if isinstance(outcome, Quarantined):
            assert outcome.unit == unit.unit
            assert outcome.stage == "read"
            assert outcome.clip_index is None
            assert outcome.reason in REASONS
    return outcomes


def reasons(outcomes: Sequence[Outcome]) -> list[tuple[str, str | None]]:
    """Return key and reason of each outcome; a sample has none."""
    return [(o.key, o.reason if isinstance(o, Quarantined) else None) for o in outcomes]


def samples(outcomes: Sequence[Outcome]) -> list[Sample]:
    return [outcome for outcome in outcomes if isinstance(outcome, Sample)]


class TestTar:
    @given(good_tars())
    def test_good_tar_gives_every_sample(
        self, tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, dict[str, bytes]]]
    ) -> None:
        outcomes = read_tar(make_tar(files_of(members)), tmp_path_factory.mktemp("tar"))
        assert reasons(outcomes) == [(key, None) for key, _ in members]
        for sample, (key, parts) in zip(samples(outcomes), members, strict=True):
            [name] = [n for n in parts if n.lower().endswith(("mp4", "mkv", "webm"))]
            assert sample.video == parts[name]
            assert sample.video_name == f"{key}.{name}"
            for text in (sample.key, sample.caption or "", sample.meta or ""):
                text.encode("utf-8")
            if len(parts) > 1 and set(map(str.lower, parts)) != {name.lower(), "txt"}:
                assert {n.lower() for n in parts} - {name.lower(), "txt"} <= set(
                    json.loads(sample.meta or "{}")
                )

    def test_sample_with_sidecars(self, tmp_path: Path) -> None:
        meta = {"fps": 24, "caption": "from json"}
        files: Files = [
            ("a/b.MP4", b"video"),
            ("a/b.txt", "  ein Hündchen läuft\n".encode()),
            ("a/b.json", json.dumps(meta).encode()),
            ("a/b.cls", b"7"),
            ("a/b.npy", b"\x93NUMPY"),
        ]
        [sample] = read_tar(make_tar(files), tmp_path)
        assert isinstance(sample, Sample)
        assert (sample.key, sample.video, sample.video_name) == ("a/b", b"video", "a/b.MP4")
        assert sample.caption == "ein Hündchen läuft"
        assert json.loads(sample.meta or "") == {
            "cls": "7",
            "json": meta,
            "npy": {"base64": "k05VTVBZ"},
        }

    def test_every_sample_has_one_outcome(self, tmp_path: Path) -> None:
        files: Files = [
            ("good.mp4", b"1"),
            ("good.txt", b"caption"),
            ("none.txt", b"no video here"),
            ("two.mp4", b"2"),
            ("two.low.mp4", b"2"),
            ("large.mp4", bytes(2_000_000)),
            ("large.txt", b"caption"),
            ("good.json", b"{}"),
            ("README", b"belongs to no sample"),
            ("__MACOSX/._good.mp4", b"neither does this"),
            ("last.mp4", b"3"),
        ]
        assert reasons(read_tar(make_tar(files), tmp_path)) == [
            ("good", None),
            ("none", "no_video"),
            ("two", "several_videos"),
            ("large", "too_large"),
            ("good", "duplicate_key"),
            ("last", None),
        ]

    def test_all_videos_first_then_all_captions(self, tmp_path: Path) -> None:
        files = [(f"{key}.{ext}", b"x") for ext in ("mp4", "txt") for key in "abc"]
        outcomes = read_tar(make_tar(files), tmp_path)
        assert reasons(outcomes) == [(key, None) for key in "abc"] + [
            (key, "duplicate_key") for key in "abc"
        ]
        assert "a.txt" in outcomes[3].detail  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("cut_at", "wanted"),
        [
            ("b.mp4", [("a", None), ("shard.tar", "tar_truncated")]),
            ("b.txt", [("a", None), ("b", "tar_truncated")]),
        ],
    )
    def test_truncated_between_members(
        self, tmp_path: Path, cut_at: str, wanted: list[tuple[str, str | None]]
    ) -> None:
        files = [(f"{key}.{ext}", b"x" * 600) for key in "abc" for ext in ("mp4", "txt")]
        tar = make_tar(files)
        [start] = [start for name, start, _ in member_offsets(tar) if name == cut_at]
        assert reasons(read_tar(tar[:start], tmp_path)) == wanted

    def test_truncated_inside_a_member(self, tmp_path: Path) -> None:
        tar = make_tar([("a.mp4", b"x" * 600), ("b.mp4", b"y" * 600)])
        outcomes = read_tar(tar[: member_offsets(tar)[1][2] - 1], tmp_path)
        assert reasons(outcomes) == [("a", None), ("b", "tar_truncated")]
        assert "1 samples are before it" in outcomes[1].detail  # type: ignore[union-attr]

    def test_not_a_tar(self, tmp_path: Path) -> None:
        assert reasons(read_tar(b"no tar at all" * 100, tmp_path)) == [
            ("shard.tar", "tar_unreadable")
        ]
        assert reasons(read_tar(b"", tmp_path)) == [("shard.tar", "tar_truncated")]
        assert read_tar(make_tar([]), tmp_path) == []

    def test_names_never_touch_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside = tmp_path / "inside"
        inside.mkdir()
        monkeypatch.chdir(inside)
        names = ["../outside", f"{tmp_path}/absolute", "x/../../up"]
        outcomes = read_tar(make_tar([(f"{name}.mp4", b"x") for name in names]), inside)
        assert reasons(outcomes) == [(name, None) for name in names]
        assert sorted(os.listdir(tmp_path)) == ["inside"]
        assert os.listdir(inside) == ["shard.tar"]

    def test_tar_that_is_gone_is_no_outcome(self, tmp_path: Path) -> None:
        unit = WorkUnit(unit="u", tar_uri=str(tmp_path / "gone.tar"))
        with pytest.raises(
            StoreError, match=r"gone\.tar: missing, although it existed when the job was planned"
        ):
            list(read_samples(unit, max_video_mb=1))

    @pytest.mark.s3
    def test_from_s3(self, s3: S3Server, s3_store: Store) -> None:
        content = os.urandom(300_000)
        files = [(f"{n:03}.{e}", content) for n in range(40) for e in ("mp4", "bin")]
        s3_store.write("a.tar", make_tar(files))
        [unit] = units_of([s3_store.locate("a.tar")], storage_options=s3.storage_options)
        read = list(read_samples(unit, storage_options=s3.storage_options, max_video_mb=1))
        assert reasons(read) == [(f"{n:03}", None) for n in range(40)]
        assert all(sample.video == content for sample in samples(read))

    @pytest.mark.s3
    def test_failing_store_is_no_outcome(self, s3: S3Server, s3_store: Store) -> None:
        """Nothing is quarantined because a store was away."""
        s3_store.write("a.tar", make_tar([(f"{n}.mp4", bytes(900_000)) for n in range(30)]))
        unit = WorkUnit(unit="u", tar_uri=s3_store.locate("a.tar"))
        stream = read_samples(unit, storage_options=s3.storage_options, max_video_mb=1)
        assert next(stream).key == "0"
        with (
            s3.faults.times("refuse_503", 999, method="GET"),
            pytest.raises(StoreError, match=r"a\.tar"),
        ):
            list(stream)


def test_excluded_samples_of_a_tar_are_not_read(tmp_path: Path) -> None:
    members = [("a.mp4", b"1"), ("b.mp4", b"2"), ("held/c.mp4", b"3"), ("alone.txt", b"no video")]
    (tmp_path / "shard.tar").write_bytes(make_tar(members))
    [unit] = units_of([str(tmp_path / "shard.tar")])
    outcomes = list(read_samples(unit, exclude=["b", "held/*", "alone"]))
    assert reasons(outcomes) == [("a", None)]


class TestLooseFiles:
    def read(self, root: Path, **options: Any) -> list[Outcome]:
        [unit] = units_of([str(root)])
        return list(read_samples(unit, **{"max_video_mb": 1, **options}))

    def test_local_videos_pass_as_paths(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/x.mp4").write_bytes(b"video")
        (tmp_path / "sub/x.txt").write_text("a dog")
        (tmp_path / "sub/x.en.vtt").write_text("WEBVTT")
        [sample] = self.read(tmp_path)
        assert sample == Sample(
            key="sub/x.mp4",
            video=f"{tmp_path}/sub/x.mp4",
            video_name="x.mp4",
            caption="a dog",
            meta='{"en.vtt": "WEBVTT"}',
        )

    def test_too_large(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(bytes(1_000_000))
        (tmp_path / "b.mp4").write_bytes(bytes(1_000_001))
        assert reasons(self.read(tmp_path)) == [("a.mp4", None), ("b.mp4", "too_large")]

    def test_one_bad_file_does_not_cost_the_others(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            (tmp_path / name).write_bytes(b"x")
        [unit] = units_of([str(tmp_path)])
        (tmp_path / "b.mp4").unlink()
        assert reasons(list(read_samples(unit, max_video_mb=1))) == [
            ("a.mp4", None),
            ("b.mp4", "file_unreadable"),
            ("c.mp4", None),
        ]

    def test_file_without_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.mp4").write_bytes(b"x")
        [unit] = units_of([str(tmp_path)])
        opened = Path.open

        def denied(path: Path, *args: Any, **kwargs: Any) -> Any:
            if path.suffix == ".mp4":
                raise PermissionError(f"denied: {path}")
            return opened(path, *args, **kwargs)

        monkeypatch.setattr(Path, "open", denied)
        [outcome] = read_samples(unit, max_video_mb=1)
        assert reasons([outcome]) == [("a.mp4", "file_unreadable")]
        assert "denied" in outcome.detail  # type: ignore[union-attr]

    def test_sidecars_that_are_gone_or_large(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "a.txt", "a.wav"):
            (tmp_path / name).write_bytes(b"x")
        [unit] = units_of([str(tmp_path)])
        (tmp_path / "a.txt").unlink()
        (tmp_path / "a.wav").write_bytes(bytes(MAX_SIDECAR_BYTES + 1))
        [sample] = read_samples(unit, max_video_mb=1)
        assert isinstance(sample, Sample)
        assert sample.caption is None
        assert sorted(json.loads(sample.meta or "")[PROBLEMS]) == ["txt", "wav"]

    @pytest.mark.s3
    def test_remote_videos_pass_as_bytes(self, s3: S3Server, s3_store: Store) -> None:
        s3_store.write("v/x.mp4", b"video")
        s3_store.write("v/x.txt", b"a dog")
        s3_store.write("v/y.mp4", bytes(1_000_001))
        options = s3.storage_options
        [unit] = units_of([s3_store.locate("v")], storage_options=options)
        [sample, large] = read_samples(unit, storage_options=options, max_video_mb=1)
        assert sample == Sample(key="x.mp4", video=b"video", video_name="x.mp4", caption="a dog")
        assert reasons([large]) == [("y.mp4", "too_large")]

    @pytest.mark.s3
    def test_remote_file_that_is_gone(self, s3: S3Server, s3_store: Store) -> None:
        gone = LooseFile(key="x.mp4", uri=s3_store.locate("x.mp4"))
        options = s3.storage_options
        unit = WorkUnit(unit="u", files=(gone,))
        assert reasons(list(read_samples(unit, storage_options=options, max_video_mb=1))) == [
            ("x.mp4", "file_unreadable")
        ]
        with s3.faults.times("refuse_503", 999, method="HEAD"), pytest.raises(StoreError):
            list(read_samples(unit, storage_options=options, max_video_mb=1))


class TestFilesThatAStoreRefuses:
    """One record each: another try would not help, and the files beside them can be read."""

    @pytest.mark.s3
    def test_in_cold_storage(self, s3: S3Server, s3_store: Store) -> None:
        members = make_tar([("t.mp4", b"t")])
        for name in ("v/a.mp4", "v/b.mp4", "v/b.txt", "v/c.mp4", "v/c.txt", "t/x.tar"):
            s3_store.write(name, members if name.endswith("tar") else name.encode())
        options = s3.storage_options
        [videos] = units_of([s3_store.locate("v")], storage_options=options)
        [tar] = units_of([s3_store.locate("t")], storage_options=options)
        fs = s3_store.filesystem()
        for name in ("v/b.mp4", "v/c.txt", "t/x.tar"):
            path = s3_store.locate(name).removeprefix("s3://")
            fs.copy(path, path, StorageClass="GLACIER")
        first, cold, last = read_samples(videos, storage_options=options)
        assert (first.video, last.video) == (b"v/a.mp4", b"v/c.mp4")
        assert (cold.key, cold.reason) == ("b.mp4", "file_unreadable")
        assert "storage class" in cold.detail
        assert "storage class" in json.loads(last.meta or "")[PROBLEMS]["txt"]
        [record] = read_samples(tar, storage_options=options)
        assert (record.key, record.reason) == ("x.tar", "tar_unreadable")

    def test_that_have_no_length(self, tmp_path: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(200)
                if "long" in self.path:
                    self.send_header("Content-Length", "5")
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()
                self.wfile.write(b"video")

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            rows = [
                {"video": f"http://127.0.0.1:{server.server_port}/{n}.mp4"} for n in ("long", "x")
            ]
            (tmp_path / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
            found = read_all(str(tmp_path / "l.jsonl"))
            server.shutdown()
        assert reasons(found) == [(str(n), [None, "file_unreadable"][n % 2]) for n in range(4)]
        assert "does not say how long" in found[1].detail


class TestSidecars:
    @pytest.mark.parametrize(
        ("content", "caption"),
        [
            ({"txt": b"a dog\n"}, "a dog"),
            ({"txt": b"\xef\xbb\xbfa dog"}, "a dog"),
            ({"txt": b" \n"}, None),
            ({"json": b'{"caption": "a cat", "text": "no"}'}, "a cat"),
            ({"json": b'{"text": "a cat"}'}, "a cat"),
            ({"json": b'{"caption": 3}'}, None),
            ({"json": b'["caption"]'}, None),
            ({"txt": b"a dog", "json": b'{"caption": "a cat"}'}, "a dog"),
            ({"txt": b"", "json": b'{"caption": "a cat"}'}, "a cat"),
            ({"json": b'{"caption": "lone \\ud800"}'}, "lone ?"),
            ({}, None),
        ],
    )
    def test_caption(self, content: dict[str, bytes], caption: str | None) -> None:
        assert Sidecars(content).caption_and_meta(64)[0] == caption

    @pytest.mark.parametrize(
        ("content", "meta"),
        [
            ({"txt": b"a dog"}, None),
            ({"json": b'{"b": 1}'}, {"json": {"b": 1}}),
            ({"vtt": b"text"}, {"vtt": "text"}),
            ({"bin": b"\xff"}, {"bin": {"base64": "/w=="}}),
            (
                {"txt": b"caf\xe9"},
                {"txt": {"base64": "Y2Fm6Q=="}, PROBLEMS: {"txt": "not UTF-8 at byte 3"}},
            ),
        ],
    )
    def test_meta(self, content: dict[str, bytes], meta: object) -> None:
        text = Sidecars(content).caption_and_meta(64)[1]
        assert (None if text is None else json.loads(text)) == meta

    @pytest.mark.parametrize(
        "data", [b"{", b'{"a": nan}', b"[" * 60_000, b"[" + b"1" * 9999 + b"]"]
    )
    def test_bad_json_is_kept_as_text_and_named(self, data: bytes) -> None:
        _, text = Sidecars({"json": data}).caption_and_meta(64)
        meta = json.loads(text or "")
        assert meta["json"] == data.decode()
        assert meta[PROBLEMS]["json"].startswith("not JSON: ")

    @pytest.mark.parametrize("depth", [99, 500, 985, 990, 991, 992, 993, 994, 5000])
    def test_deep_json_is_text(self, depth: int) -> None:
        data = b"[" * depth + b"1" + b"]" * depth
        _, text = Sidecars({"json": data}).caption_and_meta(64)
        meta = json.loads(text or "")
        assert (meta["json"] == data.decode()) == (depth > 100) == (PROBLEMS in meta)

    @given(
        st.dictionaries(st.sampled_from(["txt", "json", "vtt", "x"]), st.binary(max_size=40)),
        st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=5)),
    )
    def test_any_bytes_give_valid_json_and_text(
        self, content: dict[str, bytes], problems: dict[str, str]
    ) -> None:
        caption, meta = Sidecars(content, problems).caption_and_meta(64)
        (caption or "").encode("utf-8")
        parsed = json.loads((meta or "{}").encode("utf-8"), parse_constant=pytest.fail)
        assert set(content) - {"txt"} <= set(parsed)
