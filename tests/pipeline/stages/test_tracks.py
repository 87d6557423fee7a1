"""Tracks from the sidecar to the batch: each frame has the values of its own moment."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import pipeline
from pipeline.config.job import AudioConfig, JobConfig
from pipeline.job.config_checks import check_job
from pipeline.job.setup import open_tokenizers
from pipeline.operations.verify.verify import verify
from pipeline.reading.token_dataset import TokenDataset
from pipeline.sources.planning import plan_units
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import BatchRow, Closing, decode_rows
from tests.pipeline.decode.sounds import Form, clicks, flashing
from tests.pipeline.decode.synthetic import counting
from tests.pipeline.tokenized import tokenized

SOURCES = (Path(__file__).parents[3] / "docs/reference/sources.md").read_text()
[EXAMPLE] = re.findall(r"^```python\n(.*?)^```", SOURCES, re.MULTILINE | re.DOTALL)

FRAMES = 40
RATE = 25


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def job(folder: Path, *tracks: dict[str, Any], **clip: Any) -> JobConfig:
    values = {
        "source": {"uri": [str(folder / "in")]},
        "clip": {"frames": 5, "height": 32, "width": 32, **clip},
        "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
        "tracks": list(tracks),
        "output": {"uri": str(folder / "out")},
    }
    return JobConfig.model_validate(values)


def put(folder: Path, files: dict[str, bytes], *, tar: bool = False) -> None:
    (folder / "in").mkdir()
    if not tar:
        for name, data in files.items():
            (folder / "in" / name).write_bytes(data)
        return
    with tarfile.open(folder / "in/a.tar", "w") as target:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))


def decoded(config: JobConfig) -> list[tuple[np.ndarray, pa.Table]]:
    """Return the frames [N, T, H, W, 3] and the side columns of each row."""
    stage = DecodeStage(
        config.source, config.clip, config.decode, row_clips=4, tracks=config.tracks
    )
    with stage:
        rows = [row for unit in plan_units(config.source) for row in stage(unit)]
    return [(row.frames, decode_rows(row.side)) for row in rows if isinstance(row, BatchRow)]


NUMBER = {"name": "number", "sidecar": "n.npy", "rate": RATE}
JITTER = [40 * n + (7 * n) % 23 for n in range(FRAMES)]
"""Milliseconds of irregular frames, in order."""


@pytest.mark.parametrize("tar", [False, True])
@pytest.mark.parametrize("fps", [None, 8.0, 10.0, 25.0])
@pytest.mark.parametrize("begins_ms", [0, 1480])
def test_a_frame_has_the_sample_of_its_own_number(
    tmp_path: Path, tar: bool, fps: float | None, begins_ms: int
) -> None:
    pts = [begins_ms + 40 * n for n in range(FRAMES)]
    numbers = np.arange(FRAMES, dtype=np.int32)
    put(tmp_path, {"v.mkv": counting(FRAMES, pts=pts), "v.n.npy": npy(numbers)}, tar=tar)
    rows = decoded(job(tmp_path, NUMBER, fps=fps, short="pad"))
    assert rows
    for frames, side in rows:
        shown = frames[..., 0].mean(axis=(2, 3)).round()
        stored = [np.frombuffer(data, "<f4").reshape(5, 1) for data in side["number"].to_pylist()]
        np.testing.assert_array_equal(np.stack(stored)[..., 0], shown)
        assert set(side["number_outside"].to_pylist()) == {0}


def test_irregular_frames_have_their_own_times(tmp_path: Path) -> None:
    video = counting(FRAMES, pts=JITTER)
    seconds = [ms / 1000 for ms in JITTER]
    held = {"t": [0, 9.0], "x": [0, 9.0]}
    put(tmp_path, {"v.mkv": video, "v.json": json.dumps(held).encode()})
    track = {"name": "clock", "sidecar": "json", "times": "t", "method": "linear"}
    rows = decoded(job(tmp_path, track))
    stored = [np.frombuffer(data, "<f4") for _, side in rows for data in side["clock"].to_pylist()]
    np.testing.assert_allclose(np.concatenate(stored), seconds, rtol=1e-6)


def test_copies_of_a_held_picture_have_the_clock_of_the_clip(tmp_path: Path) -> None:
    video = counting(3, pts=[0, 1000, 1040])
    put(tmp_path, {"v.mkv": video, "v.csv": b"t,x\n0,0\n9,9\n"})
    track = {"name": "clock", "sidecar": "csv", "times": "t", "method": "linear"}
    [(frames, side)] = decoded(job(tmp_path, track, fps=4.0))
    assert frames[0, :, 0, 0, 0].tolist() == [0, 0, 0, 0, 1]
    found = np.frombuffer(side["clock"][0].as_py(), "<f4")
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.75, 1.0])


def test_padding_holds_the_last_sample(tmp_path: Path) -> None:
    put(tmp_path, {"v.mkv": counting(3), "v.n.npy": npy(np.arange(9))})
    [(_, side)] = decoded(job(tmp_path, NUMBER, short="pad"))
    assert np.frombuffer(side["number"][0].as_py(), "<f4").tolist() == [0, 1, 2, 2, 2]
    assert side["number_outside"].to_pylist() == [0]


def test_a_unit_that_is_decoded_one_by_one_keeps_its_side_columns(tmp_path: Path) -> None:
    video = flashing(Form("mov", "libx264", "pcm_s16le"), 1, [0.4], clicks(1, [0.4]))
    put(tmp_path, {"v.mov": video, "v.n.npy": npy(np.arange(FRAMES))})
    config = job(tmp_path, NUMBER)
    audio = AudioConfig(codec="flac", rate=16_000)
    parts = config.source, config.clip, config.decode
    with DecodeStage(*parts, row_clips=8, audio=audio, tracks=config.tracks) as stage:
        [unit] = plan_units(config.source)
        row, closing = stage(unit, one_by_one=True)
        again, _ = stage(unit)
    assert isinstance(closing, Closing)
    assert closing.quarantined == ()
    assert isinstance(row, BatchRow)
    side = decode_rows(row.side)
    assert side.column_names[0] == "audio"
    assert side.column_names[-2:] == ["number", "number_outside"]
    assert [side[name].null_count for name in side.column_names] == [0] * 6
    assert isinstance(again, BatchRow)
    assert again.header == row.header


def test_a_dataset_with_tracks_reads_and_verifies(tmp_path: Path) -> None:
    actions = np.stack([np.arange(6.0), -np.arange(6.0)], axis=1)
    files = {
        "a.mkv": counting(10),
        "a.n.npy": npy(actions),
        "b.mkv": counting(10),
        "c.mkv": counting(10),
        "c.n.npy": b"no array",
    }
    put(tmp_path, files)
    store = tokenized(job(tmp_path, NUMBER))
    snapshot = pipeline.open(store.uri)
    assert verify(store).findings == []
    columns = ["clip_id", "number", "number_outside", "meta"]
    [batch] = list(TokenDataset(snapshot, columns, 64, shuffle=False))
    assert batch["number"].dtype == torch.float32
    assert batch["number"].shape == (6, 5, 2)
    found = dict(zip(batch["clip_id"], batch["number"], strict=True))
    outside = dict(zip(batch["clip_id"], batch["number_outside"].tolist(), strict=True))
    meta = dict(zip(batch["clip_id"], batch["meta"], strict=True))
    for name in found:
        key, index = name.split("/")[-2:]
        if key != "a.mkv":
            assert found[name].isnan().all()
            assert outside[name] == -1
            assert (meta[name] is None) == (key == "b.mkv")
        else:
            wanted = actions[np.minimum(np.arange(5) + 5 * int(index), 5)]
            np.testing.assert_array_equal(found[name], wanted)
            assert outside[name] == [0, 4][int(index)]
    names: dict[str, Any] = {}
    folder = f"{store.uri}/data/5x32x32"
    text = EXAMPLE.replace("out/tokens/data/17x256x256", folder).replace("action", "number")
    exec(text, names)  # the example of docs/reference/sources.md
    [last] = [clip_id for clip_id in found if clip_id.endswith("a.mkv/1")]
    np.testing.assert_array_equal(names["number"], found[last])
    assert snapshot.dataset.identity["tracks"][0]["rate"] == RATE


def test_a_track_that_is_required(tmp_path: Path) -> None:
    put(tmp_path, {"a.mkv": counting(5), "a.n.npy": npy(np.arange(5)), "b.mkv": counting(5)})
    store = tokenized(job(tmp_path, NUMBER | {"required": True}))
    snapshot = pipeline.open(store.uri)
    assert (snapshot.counts.samples_with_clips, snapshot.counts.samples_quarantined) == (1, 1)
    [unit] = snapshot.manifest.units()
    assert unit.reasons == {"no_track": 1}


def test_a_job_without_tracks_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    config = job(tmp_path)
    assert "tracks" not in open_tokenizers(config).identity
    assert "tracks" in open_tokenizers(job(tmp_path, NUMBER)).identity


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tracks": [NUMBER, NUMBER]}, "tracks.1.name = number: tracks.0.name already has"),
        ({"tracks": [NUMBER | {"name": "key"}]}, "tracks.0.name = key: every row already has"),
        ({"tracks": [NUMBER | {"name": "fsq"}]}, "tokenizers.0.name = fsq: tracks.0.name already"),
        ({"tracks": [NUMBER | {"rate": None}]}, "tracks.0: needs either rate or times"),
        ({"tracks": [NUMBER | {"times": "t"}]}, "tracks.0: needs either rate or times"),
        ({"clip": {"whole": True, "height": 32, "width": 32}}, "tracks: tracks of clips that are"),
        (
            {"source": {"uri": ["a/*.csv"]}},
            "tracks.0.sidecar = n.npy: rows of a list have no sidecars; leave it out",
        ),
        ({"tracks": [NUMBER | {"sidecar": None}]}, "tracks.0.sidecar: is required for tars"),
        (
            {"source": {"uri": ["a.csv"]}, "tracks": [{"name": "n", "rate": 1.0}]},
            "tracks.0.key: is required for rows of a list",
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    values = job(tmp_path, NUMBER).model_dump() | change
    assert any(says in str(fault) for fault in check_job(JobConfig.model_validate(values)))
