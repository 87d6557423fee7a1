import importlib
import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.source import ListConfig
from pipeline.errors import StoreError
from pipeline.quarantine import REASONS, Quarantined
from pipeline.records import ListRows, Sample, Span, WorkUnit, to_json
from pipeline.sources.text import PROBLEMS
from pipeline.storage.store import Store
from tests.assets import HIKER
from tests.pipeline.s3 import S3Server
from tests.pipeline.sources.reading import read_all, read_samples, units_of
from tests.pipeline.tars import make_tar

JPEG = b"\xff\xd8\xff and so on"


def read(
    path: Path, *, images: bool = False, max_video_mb: float = 1, **settings: Any
) -> list[Any]:
    lists = ListConfig(**settings)
    found = []
    for unit in units_of([str(path)], lists=lists):
        outcomes = read_samples(unit, max_video_mb=max_video_mb, lists=lists, images=images)
        found += list(outcomes)
        assert all(o.reason in REASONS for o in found if isinstance(o, Quarantined))
    return found


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestPaths:
    def test_are_relative_to_the_list_or_to_the_root(self, tmp_path: Path) -> None:
        for name in ("in/a.mp4", "in/sub/b.mp4", "elsewhere/sub/b.mp4"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"video")
        path = jsonl(
            tmp_path / "in",
            {"video": "sub/b.mp4", "n": 1},
            {"video": str(tmp_path / "in/a.mp4")},
        )
        first, second = read(path)
        assert (first.key, first.video) == ("0", str(tmp_path / "in/sub/b.mp4"))
        assert (first.video_name, first.caption) == ("b.mp4", None)
        assert json.loads(first.meta) == {"video": "sub/b.mp4", "n": 1}
        assert (second.key, second.video) == ("1", str(tmp_path / "in/a.mp4"))
        first, _ = read(path, root=str(tmp_path / "elsewhere"))
        assert first.video == str(tmp_path / "elsewhere/sub/b.mp4")

    def test_what_is_not_there_costs_its_row_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"video")
        path = jsonl(tmp_path, {"video": "gone.mp4"}, {"video": None}, {"video": "a.mp4"})
        gone, empty, good = read(path)
        assert (gone.key, gone.reason) == ("0", "file_unreadable")
        assert (empty.key, empty.reason) == ("1", "bad_row")
        assert f"row 1 of {path}: video names no video" in empty.detail
        assert isinstance(good, Sample)

    @pytest.mark.parametrize("name", ["nosuch://b/a.mp4", "http://[b/a.mp4", "a\0.mp4", "://", 7])
    def test_a_name_that_no_store_knows_costs_its_row_alone(
        self, tmp_path: Path, name: object
    ) -> None:
        (tmp_path / "a.mp4").write_bytes(b"video")
        rows = [{"video": one} for one in ("a.mp4", name, "a.mp4")]
        first, bad, last = read(jsonl(tmp_path, *rows))
        assert (first.video, last.video) == (str(tmp_path / "a.mp4"),) * 2
        assert bad.reason in ("bad_row", "file_unreadable")
        assert bad.key == "1"
        to_json(bad)

    def test_a_missing_library_is_not_the_fault_of_a_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = importlib.import_module("fsspec.registry").known_implementations
        monkeypatch.setitem(known, "gone", {"class": "gone.Gone", "err": "needs gone"})
        with pytest.raises(StoreError, match=r"gone://b/a\.mp4: needs gone$"):
            read_all(str(jsonl(tmp_path, {"video": "gone://b/a.mp4"})), protocols=["gone", "file"])

    def test_file_uris_are_decoded_unless_a_file_has_that_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "with space"
        folder.mkdir()
        names = [
            "a b.mp4",
            "hash#1.mp4",
            "per%20cent.mp4",
            "q?.mp4",
            "é.mp4",
            "a::b.mp4",
            "c[1].mp4",
        ]
        for name in names:
            (folder / name).write_bytes(b"video")
        (folder / "a%20b.mp4").write_bytes(b"the name counts first")
        uris = [
            *((folder / name).as_uri() for name in names[1:]),
            *(f"file://{folder / name}" for name in names),
            f"file:{folder / names[0]}",
            f"file://localhost{folder / names[0]}",
            *(str(folder / name) for name in names),
            *names,
            (folder / names[0]).as_uri().replace("a%20b", "%61%20b"),
        ]
        found = read(jsonl(folder, *[{"video": uri} for uri in uris]))
        wanted = [*names[1:], *names, names[0], names[0], *names, *names, names[0]]
        assert [sample.video for sample in found] == [str(folder / name) for name in wanted]
        assert [sample.video_name for sample in found[-8:-1]] == names
        [literal] = read(
            jsonl(folder, {"video": (folder / "a b.mp4").as_uri().replace("a%20b", "x")})
        )
        assert literal.reason == "file_unreadable"
        root = folder.as_uri()
        found = read(jsonl(tmp_path, *[{"video": name} for name in names]), root=root)
        assert [sample.video for sample in found] == [str(folder / name) for name in names]

    @pytest.mark.s3
    def test_two_colons_are_part_of_a_name_on_s3(self, s3: S3Server, s3_store: Store) -> None:
        for name in ("v/a::b.mp4", "v/c.mp4", "v/x::y.tar"):
            s3_store.write(name, make_tar([("t.mp4", b"t")]) if "tar" in name else name.encode())
        rows = [{"video": name} for name in ("v/a::b.mp4", "v/c.mp4", "v/gone::1.mp4")]
        s3_store.write("l.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        options = s3.storage_options
        first, second, gone = read_all(s3_store.locate("l.jsonl"), storage_options=options)
        assert (first.video, second.video) == (b"v/a::b.mp4", b"v/c.mp4")
        assert gone.reason == "file_unreadable"
        found = read_all(s3_store.locate("v"), storage_options=options)
        assert [o.key for o in found] == ["t", "a::b.mp4", "c.mp4"]

    def test_too_large(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(bytes(2001))
        [found] = read(jsonl(tmp_path, {"video": "a.mp4"}), max_video_mb=0.002)
        assert found.reason == "too_large"

    @pytest.mark.s3
    def test_a_remote_video_is_read_once_for_all_its_spans(
        self, s3: S3Server, s3_store: Store
    ) -> None:
        for name in ("a.mp4", "b.mp4"):
            s3_store.write(name, name.encode())
        rows = "video,from,to\na.mp4,0,1\na.mp4,1,2\ngone.mp4,,\nb.mp4,,2\na.mp4,3,\n"
        s3_store.write("list.csv", rows.encode())
        lists = ListConfig(start_s="from", end_s="to")
        options = s3.storage_options
        [unit] = units_of([s3_store.locate("list.csv")], lists=lists, storage_options=options)
        asked: list[str] = []

        def note(environ: dict[str, Any]) -> str | None:
            if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".mp4"):
                asked.append(environ["PATH_INFO"].rsplit("/")[-1])
            return None

        with s3.faults.rule(note):
            found = list(read_samples(unit, max_video_mb=1, lists=lists, storage_options=options))
        assert asked == ["a.mp4", "b.mp4", "a.mp4"]
        first, second, gone, third, fourth = found
        assert gone.reason == "file_unreadable"
        assert [s.video for s in (first, second, third, fourth)] == [
            b"a.mp4",
            b"a.mp4",
            b"b.mp4",
            b"a.mp4",
        ]
        assert [s.span for s in (first, second, third, fourth)] == [
            Span(start_s=0, end_s=1),
            Span(start_s=1, end_s=2),
            Span(start_s=0, end_s=2),
            Span(start_s=3, end_s=None),
        ]


class TestBytes:
    def test_in_the_way_of_datasets(self, tmp_path: Path) -> None:
        (tmp_path / "c.mp4").write_bytes(b"file")
        videos = [
            {"bytes": b"one", "path": "x/a.mp4"},
            {"bytes": JPEG, "path": None},
            {"bytes": None, "path": "c.mp4"},
            {"bytes": JPEG, "path": "b.png"},
            {"bytes": bytes(2001), "path": "d.mp4"},
        ]
        path = tmp_path / "v.parquet"
        table = pa.table(
            {"video": videos, "text": ["A", " B ", None, "", "E"], "id": list("vwxyz")}
        )
        pq.write_table(table, path)
        settings = {"caption": "text", "key": "id", "max_video_mb": 0.002}
        one, two, three, four, five = read(path, images=True, **settings)
        assert (one.key, one.video, one.video_name, one.caption) == ("v", b"one", "a.mp4", "A")
        assert json.loads(one.meta) == {"video": "x/a.mp4"}
        assert (two.video, two.is_image, two.caption, two.meta) == (JPEG, True, "B", None)
        assert (three.video, three.is_image, three.caption) == (
            str(tmp_path / "c.mp4"),
            False,
            None,
        )
        assert (four.is_image, four.caption) == (True, None)
        assert (five.key, five.reason) == ("z", "too_large")
        _, two, _, four, _ = read(path, **settings)
        assert two.reason == four.reason == "no_video"
        assert "no bucket of `clip` has one frame" in two.detail

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
    def test_plain(self, tmp_path: Path, kind: pa.DataType) -> None:
        pq.write_table(pa.table({"mp4": pa.array([b"v"], kind)}), tmp_path / "v.parquet")
        [sample] = read(tmp_path / "v.parquet", video="mp4")
        assert (sample.key, sample.video, sample.meta) == ("0", b"v", None)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF"])
def test_bytes_without_a_name_are_known_by_how_they_begin(tmp_path: Path, form: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(out, form)
    videos = pa.array([out.getvalue(), HIKER.path.read_bytes()], pa.binary())
    pq.write_table(pa.table({"video": videos}), tmp_path / "v.parquet")
    image, video = read(tmp_path / "v.parquet", images=True)
    assert (image.is_image, video.is_image) == (True, False)


class TestRows:
    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ({"from": -1}, "from = -1.0: must be finite and not negative"),
            ({"from": "x"}, "from = 'x' is not a number"),
            ({"from": [1]}, "is not a number"),
            ({"to": 1e400}, "to = inf"),
            ({"from": 2, "to": 2}, "the span ends at 2.0 s, before or where it begins (2.0 s)"),
            ({"id": ""}, "id is empty"),
            ({"id": None}, "id is empty"),
            ({"id": float("nan")}, "id is empty"),
            ({"id": ["k"]}, "id is empty"),
            ({"id": True}, "id is empty"),
            ({"from": 10**400}, "is not a number"),
            ({"deep": json.loads("[" * 200 + "]" * 200)}, "nested deeper"),
        ],
    )
    def test_bad_ones(self, tmp_path: Path, row: dict[str, Any], says: str) -> None:
        (tmp_path / "a.mp4").write_bytes(b"video")
        good = {"video": "a.mp4", "id": "k", "from": None, "to": float("nan")}
        path = jsonl(tmp_path, good, good | {"id": "l"} | row)
        first, second = read(path, key="id", start_s="from", end_s="to")
        assert first.span is None
        assert second.reason == "bad_row"
        assert says in second.detail

    def test_an_image_has_no_span(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(JPEG)
        path = jsonl(tmp_path, {"video": "a.jpg", "t": None}, {"video": "a.jpg", "t": 1})
        first, second = read(path, images=True, start_s="t")
        assert first.is_image
        assert second.reason == "bad_row"
        assert "cannot have a start and an end" in second.detail

    def test_keys_come_once_in_a_unit(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"video")
        path = jsonl(tmp_path, *[{"video": "a.mp4", "id": n} for n in (7, 8, 7)])
        outcomes = read(path, key="id")
        assert [o.key for o in outcomes] == ["7", "8", "7"]
        assert outcomes[2].reason == "duplicate_key"

    def test_meta_is_json_that_all_can_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"video")
        columns = {
            "video": ["a.mp4"],
            "day": [date(2024, 2, 29)],
            "nan": [float("nan")],
            "raw": [b"\x00\xff"],
            "nested": [{"list": [1.5, None]}],
        }
        pq.write_table(pa.table(columns), tmp_path / "l.parquet")
        [sample] = read(tmp_path / "l.parquet")
        assert json.loads(sample.meta) == {
            "video": "a.mp4",
            "day": "2024-02-29",
            "nan": None,
            "raw": {"base64": "AP8="},
            "nested": {"list": [1.5, None]},
        }
        big = jsonl(tmp_path, {"video": "a.mp4", "x": "y" * (1 << 19), "z": "y" * (1 << 19)})
        with pytest.raises(ValueError, match="a row of more than"):
            read(big)
        pq.write_table(
            pa.table({"video": ["a.mp4"], "x": ["y" * 1_100_000]}), tmp_path / "l.parquet"
        )
        [sample] = read(tmp_path / "l.parquet")
        assert json.loads(sample.meta) == {
            "video": "a.mp4",
            PROBLEMS: {"x": "1100009 bytes, more than source.max_meta_kb = 64 takes; raise it"},
        }

    def test_signatures_are_not_kept(self, tmp_path: Path) -> None:
        signed = "memory://b/v.mp4?X-Amz-Signature=abc123&x=1"
        protocols = ["file", "memory"]
        [fault] = read_all(str(jsonl(tmp_path, {"video": signed})), protocols=protocols)
        assert fault.reason == "file_unreadable"
        assert "abc123" not in fault.detail
        fsspec.filesystem("memory").pipe_file("/b/v.mp4?X-Amz-Signature=abc123&x=1", b"video")
        [sample] = read_all(str(jsonl(tmp_path, {"video": signed})), protocols=protocols)
        assert sample.video == b"video"
        assert "abc123" not in sample.meta


class TestLists:
    def test_that_is_gone_is_no_outcome(self, tmp_path: Path) -> None:
        rows = ListRows(uri=str(tmp_path / "gone.csv"), start=0, stop=1)
        with pytest.raises(
            StoreError, match="missing, although it existed when the job was planned"
        ):
            list(read_samples(WorkUnit(unit="u", rows=rows), max_video_mb=1))

    def test_that_is_damaged_is_one_record_after_what_was_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"video")
        (tmp_path / "l.csv").write_text("video\na.mp4\n")
        rows = ListRows(uri=str(tmp_path / "l.csv"), start=0, stop=3)
        good, rest = read_samples(WorkUnit(unit="u", rows=rows), max_video_mb=1)
        assert isinstance(good, Sample)
        assert (rest.key, rest.reason) == ("l.csv", "list_unreadable")
        assert "the rows 1 to 2 are lost" in rest.detail
