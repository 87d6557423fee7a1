import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.source import ListConfig
from pipeline.errors import ConfigError
from pipeline.records import ListRows
from pipeline.sources.lists import cut_list, is_list, read_rows
from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server

text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=12
)
tables = st.lists(
    st.fixed_dictionaries({"video": text.filter(str.strip), "a,b": text, 'c"': text}), max_size=20
)


def write(folder: Path, suffix: str, rows: list[dict[str, str]]) -> str:
    path = folder / f"list{suffix}"
    if suffix == ".parquet":
        columns = ["video", "a,b", 'c"']
        table = pa.table({name: pa.array([r[name] for r in rows], pa.string()) for name in columns})
        pq.write_table(table, path, row_group_size=3)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        out = io.StringIO()
        delimiter = "\t" if suffix == ".tsv" else ","
        writer = csv.DictWriter(out, ["video", "a,b", 'c"'], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(out.getvalue().encode("utf-8"))
    return str(path)


def whole(uri: str, config: ListConfig, **options: Any) -> list[Any]:
    """Return the rows of all runs, and check that their numbers are consecutive."""
    found = [
        pair for run in cut_list(uri, config, options) for pair in read_rows(run, config, options)
    ]
    assert [number for number, _ in found] == list(range(len(found)))
    return [row for _, row in found]


class TestCutAndRead:
    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
    @given(rows=tables, per_unit=st.integers(1, 7))
    def test_the_runs_hold_every_row_once(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        suffix: str,
        rows: list[dict[str, str]],
        per_unit: int,
    ) -> None:
        uri = write(tmp_path_factory.mktemp("list"), suffix, rows)
        config = ListConfig(rows_per_unit=per_unit)
        assert whole(uri, config) == rows
        runs = list(cut_list(uri, config, None))
        assert all(run.stop - run.start == per_unit for run in runs[:-1])
        if rows:
            # Any stretch, found from the beginning: what a reopened unit is read by.
            part = ListRows(uri=uri, start=len(rows) // 3, stop=len(rows))
            assert [row for _, row in read_rows(part, config, None)] == rows[len(rows) // 3 :]

    @pytest.mark.s3
    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
    def test_on_s3(self, s3: S3Server, s3_store: Store, tmp_path: Path, suffix: str) -> None:
        rows = [{"video": f"{n}.mp4", "a,b": "é\n" * n, 'c"': '"'} for n in range(100)]
        path = write(tmp_path, suffix, rows)
        s3_store.write(f"list{suffix}", Path(path).read_bytes())
        uri = s3_store.locate(f"list{suffix}")
        assert whole(uri, ListConfig(rows_per_unit=30), **s3.storage_options) == rows

    def test_parquet_that_holds_videos_is_cut_between_row_groups(self, tmp_path: Path) -> None:
        videos = pa.array([{"bytes": bytes([n]) * 9, "path": f"{n}.mp4"} for n in range(20)])
        path = str(tmp_path / "videos.parquet")
        pq.write_table(pa.table({"video": videos}), path, row_group_size=3)
        runs = list(cut_list(path, ListConfig(rows_per_unit=5), None))
        assert [(run.start, run.stop) for run in runs] == [(0, 6), (6, 12), (12, 18), (18, 20)]
        rows = [row for run in runs for _, row in read_rows(run, ListConfig(), None)]
        assert [row["video"]["path"] for row in rows] == [f"{n}.mp4" for n in range(20)]

    def test_blank_lines_are_no_rows(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfvideo,x\r\n\r\na,1\r\n\nb,2")
        (tmp_path / "a.jsonl").write_text('\n{"video": "a"}\n  \n{"video": "b"}')
        config = ListConfig(rows_per_unit=1)
        assert whole(str(tmp_path / "a.csv"), config) == [
            {"video": "a", "x": "1"},
            {"video": "b", "x": "2"},
        ]
        assert whole(str(tmp_path / "a.jsonl"), config) == [{"video": "a"}, {"video": "b"}]

    def test_rows_that_cannot_be_read_say_why(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("video,x\na,1\nb\n")
        (tmp_path / "a.jsonl").write_text('{"video": "a"}\n{"video\n[1]\n')
        assert whole(str(tmp_path / "a.csv"), ListConfig())[1] == "1 fields, the header has 2"
        _, second, third = whole(str(tmp_path / "a.jsonl"), ListConfig())
        assert second.startswith("not JSON: Invalid control character")
        assert third == "a line that is not a JSON object"

    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
    def test_only_the_columns_that_are_kept(self, tmp_path: Path, suffix: str) -> None:
        uri = write(tmp_path, suffix, [{"video": "v", "a,b": "1", 'c"': "2"}])
        assert whole(uri, ListConfig(meta=["a,b"])) == [{"video": "v", "a,b": "1"}]
        assert whole(uri, ListConfig(meta=[])) == [{"video": "v"}]


class TestOneRow:
    """A fault of one row costs that row, wherever in the list it is."""

    def rows(self, folder: Path, name: str, content: bytes, **settings: Any) -> list[Any]:
        (folder / name).write_bytes(content)
        whole_list = whole(str(folder / name), ListConfig(**settings))
        for per_unit in (1, 2):  # the positions of the runs are right behind a fault too
            again = whole(str(folder / name), ListConfig(rows_per_unit=per_unit, **settings))
            assert again == whole_list
        return whole_list

    @pytest.mark.parametrize("at", [0, 1, 2])
    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            (b'{"video": "a", ', "not JSON"),
            (b"[1]", "not a JSON object"),
            (b'{"video": "caf\xe9"}', "not UTF-8 at byte 14"),
            (b'{"video": "' + b"x" * (1 << 21) + b'"}', "a row of more than 1048576 bytes"),
        ],
    )
    def test_of_json_lines(self, tmp_path: Path, at: int, bad: bytes, says: str) -> None:
        lines = [b'{"video": "a"}', b'{"video": "b", "text": "B"}']
        lines.insert(at, bad)
        found = self.rows(tmp_path, "l.jsonl", b"\n".join(lines), caption="text")
        assert says in found.pop(at)
        assert found == [{"video": "a"}, {"video": "b", "text": "B"}]

    @pytest.mark.parametrize("at", [0, 1, 2])
    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            (b"a", "1 fields, the header has 2"),
            (b'a,"a 6" pipe, "seen" from above"', "expected after"),
            (b'a,"never closed', "expected after|unexpected end of data|fields"),
            (b"a,caf\xe9", "not UTF-8 at byte 5 of its line"),
            (b"a," + b"x" * (1 << 20), "a row of more than 1048576 bytes"),
            (
                b'a,"' + (b"x" * 100_000 + b"\n") * 11,
                "a row of more than 1048576 bytes|fields|unexpected",
            ),
        ],
    )
    def test_of_csv(self, tmp_path: Path, at: int, bad: bytes, says: str) -> None:
        good = [{"video": "b", "text": 'two\n"lines"'}, {"video": "c", "text": "x " * 70_000}]
        lines = [b'b,"two\n""lines"""', b"c," + b"x " * 70_000]
        lines.insert(at, bad)
        found = self.rows(tmp_path, "l.csv", b"\n".join([b"video,text", *lines]) + b"\n")
        assert re.search(says, found[at])
        assert [row for row in found if isinstance(row, dict)] == good

    def test_of_parquet(self, tmp_path: Path) -> None:
        text = pa.array([b"a", b"caf\xe9", b"c"], pa.binary()).view(pa.string())
        pq.write_table(pa.table({"video": ["1", "2", "3"], "text": text}), tmp_path / "l.parquet")
        first, bad, last = whole(str(tmp_path / "l.parquet"), ListConfig())
        assert (first["text"], last["text"]) == ("a", "c")
        assert "Invalid UTF8 sequence" in bad

    def test_a_column_counts_if_any_row_has_it(self, tmp_path: Path) -> None:
        rows = b'{"video": "a"}\n{"video": "b", "start": 1}\n'
        found = self.rows(tmp_path, "l.jsonl", rows, start_s="start")
        assert found == [{"video": "a"}, {"video": "b", "start": 1}]
        with pytest.raises(ConfigError, match=r"end_s = end: no such column .* has video, start$"):
            self.rows(tmp_path, "l.jsonl", rows, start_s="start", end_s="end")

    def test_dictionary_columns_of_parquet(self, tmp_path: Path) -> None:
        names = pa.array(["a", "b", "a"]).dictionary_encode()
        videos = pa.array([b"1", b"2", b"1"]).dictionary_encode()
        pq.write_table(pa.table({"video": names, "held": videos}), tmp_path / "l.parquet")
        rows = whole(str(tmp_path / "l.parquet"), ListConfig())
        assert [row["video"] for row in rows] == ["a", "b", "a"]
        rows = whole(str(tmp_path / "l.parquet"), ListConfig(video="held"))
        assert [row["held"] for row in rows] == [b"1", b"2", b"1"]
        numbers = pa.array([1, 2]).dictionary_encode()
        pq.write_table(pa.table({"video": numbers}), tmp_path / "l.parquet")
        with pytest.raises(ConfigError, match="of type int64"):
            whole(str(tmp_path / "l.parquet"), ListConfig())


class TestFaults:
    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
    def test_a_column_that_is_not_there(self, tmp_path: Path, suffix: str) -> None:
        uri = write(tmp_path, suffix, [{"video": "v", "a,b": "1", 'c"': "2"}])
        for config, setting in [
            (ListConfig(video="url"), "video = url"),
            (ListConfig(caption="text"), "caption = text"),
            (ListConfig(meta=["video", "x"]), "meta.1 = x"),
        ]:
            with pytest.raises(
                ConfigError, match=rf"source.lists.{setting}: no such .* video, a,b"
            ):
                list(cut_list(uri, config, None))

    def test_a_column_of_another_type(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"video": [1, 2]}), tmp_path / "a.parquet")
        with pytest.raises(ConfigError, match=r"video = video: of type int64 .* must hold text"):
            list(cut_list(str(tmp_path / "a.parquet"), ListConfig(), None))

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            (
                "a.parquet",
                b"no parquet",
                "ArrowInvalid: .*Parquet magic bytes",
            ),
            ("a.csv", b'"video\na\n', "the header cannot be read: unexpected end of data"),
            ("a.csv", b'"video"x\na\n', "the header cannot be read: .* expected after"),
            (
                "a.csv",
                "vidéo,x\na,b\n".encode("utf-16"),
                "the header cannot be read: not UTF-8 at byte 0",
            ),
            ("a.jsonl", b'["a"]\n', "row 0: a line that is not a JSON object"),
            ("a.jsonl", b"x" * (1 << 20) + b"\n", "row 0: .*a row of more than 1048576 bytes"),
        ],
    )
    def test_what_is_no_list(self, tmp_path: Path, name: str, content: bytes, says: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=rf"{name}: .*{says}"):
            list(cut_list(str(tmp_path / name), ListConfig(), None))

    def test_a_list_that_lost_rows(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("video\na\nb\n")
        [run] = cut_list(str(tmp_path / "a.csv"), ListConfig(), None)
        (tmp_path / "a.csv").write_text("video\na\n")
        with pytest.raises(ValueError, match="has 1 rows from row 0 on instead of 2"):
            list(read_rows(run, ListConfig(), None))

    def test_damaged_pages(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        names = [f"{n}.mp4" for n in range(5000)]
        pq.write_table(pa.table({"video": names}), path, compression="zstd", use_dictionary=False)
        [run] = cut_list(str(path), ListConfig(rows_per_unit=9999), None)
        damaged = bytearray(path.read_bytes())
        damaged[20:400] = bytes(380)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^(OSError|ArrowInvalid): "):
            list(read_rows(run, ListConfig(), None))


def test_is_list() -> None:
    assert [is_list(n) for n in ("a.CSV", "b.parquet", "c.csv.gz", "d.tar")] == [
        True,
        True,
        False,
        False,
    ]
