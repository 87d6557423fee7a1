"""Tracks of list rows: from cells, and from other Parquet files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.source import FramesConfig, ListConfig, VideoSource
from pipeline.config.tracks import TrackConfig
from pipeline.errors import StoreError
from pipeline.quarantine import Quarantined
from pipeline.records import Sample
from pipeline.sources import row_tracks
from pipeline.sources.planning import plan_units
from pipeline.sources.reader import SampleReader
from pipeline.sources.row_tracks import frame_arrays

ACTION = TrackConfig(name="action", key=["action"], times="t")
FRAMES = FramesConfig(path="frames/{part:02d}.parquet", key="episode")


def read(
    folder: Path,
    rows: list[dict[str, Any]],
    *tracks: TrackConfig,
    form: str = "jsonl",
    **lists: Any,
) -> list[Any]:
    (folder / "a.mp4").write_bytes(b"v")
    path = folder / f"l.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = VideoSource(uri=[str(path)], lists=ListConfig(**lists))
    reader = SampleReader(source, tracks=tracks)
    return [one for unit in plan_units(source) for one in reader.read(unit)]


def write_frames(folder: Path, name: str, columns: dict[str, Any], **options: Any) -> Path:
    (folder / "frames").mkdir(exist_ok=True)
    path = folder / "frames" / name
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("meta", [None, ["note"]])
def test_cells_of_a_row_are_a_track(tmp_path: Path, form: str, meta: list[str] | None) -> None:
    row = {
        "video": "a.mp4",
        "begins": 2.0,
        "note": "x",
        "t": [0.0, 0.5],
        "action": [[1.0, 2.0], [3.0, 4.0]],
    }
    rate = TrackConfig(name="fast", key=["action", "t"], rate=4.0)
    [one] = read(tmp_path, [row], ACTION, rate, form=form, start_s="begins", meta=meta)
    assert one.tracks["action"].values.tolist() == [[1, 2], [3, 4]]
    assert one.tracks["action"].times.tolist() == [2.0, 2.5], "from the beginning of the video"
    assert one.tracks["fast"].values.tolist() == [[1, 2, 0], [3, 4, 0.5]]
    assert one.tracks["fast"].times.tolist() == [2.0, 2.25]
    assert json.loads(one.meta) == {"video": "a.mp4", "begins": 2.0, "note": "x"}


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"action": None, "t": [0]}, "has no action"),
        ({"action": [[1], [2, 3]], "t": [0, 1]}, "action:"),
        ({"action": "[[1]]", "t": [0]}, "action:"),
        ({"action": [[1]], "t": [0, 1]}, "t has the shape [2], not [1]"),
        ({"action": [], "t": []}, "its arrays have [0] samples; need the same, above 0"),
        ({"action": [[1], [1]], "t": [1, 0]}, "t decreases"),
    ],
)
def test_a_broken_track_costs_no_video(tmp_path: Path, cells: dict[str, Any], says: str) -> None:
    [one] = read(tmp_path, [{"video": "a.mp4", **cells}], ACTION)
    assert (one.tracks, one.video) == ({}, str(tmp_path / "a.mp4"))
    assert says in json.loads(one.meta)["_problems"]["action"]
    required = ACTION.model_copy(update={"required": True})
    [one] = read(tmp_path, [{"video": "a.mp4", **cells}], required)
    assert isinstance(one, Quarantined)
    assert one.reason == "no_track"
    assert says in one.detail


def test_a_row_without_a_track_is_as_a_sample_without_a_sidecar(tmp_path: Path) -> None:
    rows = [{"video": "a.mp4"}, {"video": "a.mp4", "action": None, "t": None}]
    for one in read(tmp_path, rows, ACTION):
        assert (one.tracks, json.loads(one.meta)) == ({}, {"video": "a.mp4"})
    required = ACTION.model_copy(update={"required": True})
    assert [one.reason for one in read(tmp_path, rows, required)] == ["no_track"] * 2


@given(
    episodes=st.lists(st.integers(-3, 6), max_size=30),
    group_rows=st.integers(1, 12),
    asked=st.integers(-4, 7),
)
def test_frames_of_a_row_are_those_with_its_key(
    episodes: list[int], group_rows: int, asked: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("frames") / "f.parquet"
    wide = pa.array([[n, -n] for n in range(len(episodes))], pa.list_(pa.float32(), 2))
    columns = {"e": pa.array(episodes, pa.int64()), "x": wide}
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    wanted = [[n, -n] for n, episode in enumerate(episodes) if episode == asked]
    if wanted:
        assert frame_arrays(str(path), "e", asked, ["x"], None)["x"].tolist() == wanted
    else:
        with pytest.raises(ValueError, match=f"has e = {asked}"):
            frame_arrays(str(path), "e", asked, ["x"], None)


def test_row_groups_of_other_keys_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"e": [n // 10 for n in range(100)], "x": np.arange(100.0)}
    path = write_frames(tmp_path, "f.parquet", columns, row_group_size=10)
    asked: list[list[int]] = []
    iter_batches = pq.ParquetFile.iter_batches

    def noted(file: pq.ParquetFile, **values: Any) -> Any:
        asked.append(values["row_groups"])
        return iter_batches(file, **values)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    assert frame_arrays(str(path), "e", 7, ["x"], None)["x"].tolist() == [*range(70, 80)]
    assert asked == [[7]]


class TestFrames:
    def rows(self, folder: Path, *rows: dict[str, Any], **track: Any) -> list[Any]:
        config = ACTION.model_copy(update=track)
        values = [{"video": "a.mp4", "part": 0, **row} for row in rows]
        return read(folder, values, config, frames=FRAMES, key="episode")

    def test_each_row_has_its_own(self, tmp_path: Path) -> None:
        columns = {"episode": [4, 5, 5], "t": [0.0, 0.0, 0.1], "action": [[1, 1], [2, 2], [3, 3]]}
        write_frames(tmp_path, "00.parquet", columns)
        write_frames(tmp_path, "12.parquet", {"episode": [6], "t": [0.0], "action": [9.0]})
        found = self.rows(tmp_path, {"episode": 5}, {"episode": 4}, {"episode": 6, "part": 12})
        values = [one.tracks["action"].values.tolist() for one in found]
        assert values == [[[2, 2], [3, 3]], [[1, 1]], [[9]]]

    @pytest.mark.parametrize(
        ("columns", "row", "says"),
        [
            ({"episode": [1], "t": [0.0]}, {}, "has no column action"),
            ({"t": [0.0], "action": [1.0]}, {}, "has no column episode"),
            ({"episode": [2], "t": [0.0], "action": [1.0]}, {}, "no row of"),
            ({"episode": ["1"], "t": [0.0], "action": [1.0]}, {}, "parquet: "),
            ({"episode": [1], "t": [0.0], "action": ["x"]}, {}, "must be numbers"),
            ({"episode": [1], "t": [0.0], "action": [None]}, {}, "must be numbers"),
            (
                {"episode": [1, 1], "t": [0.0, 1.0], "action": [[1.0], [1.0, 2.0]]},
                {},
                "its lists have different lengths",
            ),
            ({"episode": [1]}, {"part": None}, "part is empty"),
            ({"episode": [1]}, {"part": 77}, "77.parquet"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, tmp_path: Path, columns: dict[str, Any], row: dict[str, Any], says: str
    ) -> None:
        write_frames(tmp_path, "00.parquet", columns)
        [one] = self.rows(tmp_path, {"episode": 1, **row})
        assert isinstance(one, Sample)
        assert one.tracks == {}
        assert says in json.loads(one.meta or "")["_problems"]["action"]

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        path = write_frames(tmp_path, "00.parquet", {"episode": [1], "t": [0.0], "action": [1.0]})
        data = bytearray(path.read_bytes())
        path.write_bytes(data[:-30])
        [one] = self.rows(tmp_path, {"episode": 1})
        assert "00.parquet: " in json.loads(one.meta)["_problems"]["action"]

    def test_memory_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(row_tracks, "MAX_TRACK_BYTES", 1 << 16)
        count = 100_000
        columns = {"episode": np.ones(count, int), "t": np.zeros(count), "action": np.zeros(count)}
        write_frames(tmp_path, "00.parquet", columns)
        [one] = self.rows(tmp_path, {"episode": 1})
        assert "more than 65536 bytes" in json.loads(one.meta)["_problems"]["action"]

    def test_a_folder_that_is_away_is_no_verdict(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="its folder is missing or empty"):
            self.rows(tmp_path, {"episode": 1})


class TestTemplates:
    def test_a_path_from_several_columns(self, tmp_path: Path) -> None:
        (tmp_path / "lists").mkdir()
        (tmp_path / "v/003").mkdir(parents=True)
        (tmp_path / "v/003/b c.mp4").write_bytes(b"v")
        rows = [{"chunk": 3, "name": "b c"}, {"chunk": "3", "name": "b c"}, {"chunk": 3}]
        (tmp_path / "lists/l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = ListConfig(video="../v/{chunk:03d}/{name}.mp4")
        source = VideoSource(uri=[str(tmp_path / "lists/l.jsonl")], lists=config)
        [unit] = plan_units(source)
        first, second, third = SampleReader(source).read(unit)
        assert isinstance(first, Sample)
        assert isinstance(second, Sample)
        assert first.video == second.video == str(tmp_path / "v/003/b c.mp4")
        assert json.loads(first.meta or "") == rows[0]
        assert isinstance(third, Quarantined)
        assert (third.reason, "name is empty" in third.detail) == ("bad_row", True)

    def test_values_lead_to_no_other_protocol(self, tmp_path: Path) -> None:
        for name, says in [("ftp://h/a", "protocol ftp"), ("zip::s3://b", "chain")]:
            [one] = read(tmp_path, [{"name": name}], video="{name}.mp4")
            assert isinstance(one, Quarantined)
            assert one.reason == "bad_row"
            assert says in one.detail
