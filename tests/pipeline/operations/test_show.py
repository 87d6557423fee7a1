"""A clip is found by its id, and its video shows original and decoded frames beside each other."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.compact import compact
from pipeline.operations.show import find_row, show_clip, show_picture, write_video
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound
from tests.pipeline.tokenized import hikers


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return hikers(tmp_path_factory.mktemp("show"))


def frames_of(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate or 0)


def test_a_clip_beside_its_tokens(corpus: Store, tmp_path: Path) -> None:
    manifest = read_manifest(corpus)
    [unit] = manifest.units()
    clip_id = f"{unit.unit}/hiker.mp4/1"
    out = tmp_path / "clip.mp4"
    found = show_clip(corpus, clip_id, str(out))
    assert (found.row["clip_id"], found.row["num_frames"]) == (clip_id, 5)
    assert found.row["start_s"] == pytest.approx(1.25)
    frames, fps = frames_of(out)
    assert frames.shape == (5, 32, 3 * 40, 3)
    assert fps == pytest.approx(4)
    original, *decoded = np.split(frames.astype(float), 3, axis=2)
    for name, clip in zip(("fsq", "kl"), decoded, strict=True):
        error = ((original - clip) ** 2).mean()
        assert 10 * np.log10(255**2 / error) == pytest.approx(found.psnr_db[name], abs=1.5)
    assert verify(corpus, decode=1000).psnr_db["fsq"].count(found.psnr_db["fsq"]) == 1
    lines = found.lines()
    assert f"clip_id        {clip_id}" in lines
    assert "fsq            160 bytes" in lines
    assert lines[-1].startswith(f"video          {out}: original | fsq ")


def test_a_picture_of_clips_above_their_tokens(corpus: Store, tmp_path: Path) -> None:
    path = tmp_path / "clips.png"
    run = CliRunner().invoke
    done = run(app, ["show", corpus.uri, "--picture", str(path), "--clips", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    [unit] = read_manifest(corpus).units()
    assert found["clips"] == [f"{unit.unit}/hiker.mp4/{n}" for n in range(2)]
    assert (found["picture"], found["untrained"]) == (str(path), [])
    psnr = [show_clip(corpus, clip, str(tmp_path / "a.mp4")).psnr_db for clip in found["clips"]]
    for name, mean_db in found["psnr_db"].items():
        assert mean_db == pytest.approx((psnr[0][name] + psnr[1][name]) / 2)
    picture = np.array(Image.open(path))
    assert picture.shape == (2 * 3 * (32 + 4), 150 + 5 * (40 + 4), 3)
    frames, _ = frames_of(tmp_path / "a.mp4")
    last = np.concatenate([picture[n * 36 :][:32, 150:190] for n in range(3, 6)], axis=1)
    assert np.abs(last.astype(int) - frames[0]).mean() < 4, "the rows of the second clip"
    lines = show_picture(corpus, str(path), 2).lines()
    assert lines[-1] == f"picture    {path}"
    assert lines[0].startswith("psnr       fsq: ")


def test_a_picture_shows_different_samples_first(tmp_path: Path) -> None:
    """Of three clips in two videos, the third is the second clip of the first video."""
    store = hikers(tmp_path, second=True)
    found = show_picture(store, str(tmp_path / "clips.png"), 3)
    assert [clip.split("/", 1)[1] for clip in found.clips] == [
        "again.mp4/0",
        "hiker.mp4/0",
        "again.mp4/1",
    ]


@pytest.mark.parametrize(
    "options",
    [[], ["--clip", "u/k/0", "--picture", "a.png"], ["--picture", "a.png", "--out", "a.mp4"]],
)
def test_one_thing_is_shown(tmp_path: Path, options: list[str]) -> None:
    done = CliRunner().invoke(app, ["show", str(tmp_path), *options])
    assert done.exit_code == 2
    assert "either --clip ID" in done.stderr


@pytest.mark.parametrize("merged", [False, True])
def test_every_row_is_found_in_its_part(tmp_path: Path, merged: bool) -> None:
    store = Store(str(tmp_path))
    records = sound(store)
    if merged:
        assert compact(store).files_after == 2
    for record in records:
        seen = 0
        for n in range(8):
            clip_id = f"{record.unit}/k{n // 2}/{n % 2}"
            if n != int(record.unit[2:]):  # that one is quarantined
                assert show_clip(store, clip_id).row["clip_id"] == clip_id
                seen += 1
        assert seen == sum(part.rows for part in record.parts)


def test_from_the_command_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sound(store)
    done = CliRunner().invoke(app, ["show", store.uri, "--clip", "u-1/k2/1", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["row"]["caption"] == "clip 5"
    assert found["row"]["fsq"] == f"{2 * np.prod(found['row']['fsq_shape'])} bytes"
    assert found["video"] is None
    assert Path(found["part"]).exists()


@pytest.mark.parametrize("clip_id", ["u-1/k0/1", "u-9/k0/0", "nonsense", ""])
def test_a_clip_that_is_not_there(tmp_path: Path, clip_id: str) -> None:
    store = Store(str(tmp_path))
    sound(store)
    with pytest.raises(ConfigError, match=r"--clip .*: no row of "):
        find_row(store, read_manifest(store), clip_id)


def test_a_source_that_is_gone(tmp_path: Path) -> None:
    store = hikers(tmp_path)
    [unit] = read_manifest(store).units()
    (tmp_path / "in/hiker.mp4").unlink()
    out = tmp_path / "clip.mp4"
    with pytest.raises(StoreError, match=r"hiker\.mp4/0: .*without --out"):
        show_clip(store, f"{unit.unit}/hiker.mp4/0", str(out))
    assert not out.exists()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = sound(store)[1]
    store.write(record.parts[0].path, b"PAR1 or not")
    with pytest.raises(StoreError, match=r"u-1-0-.*verify"):
        show_clip(store, "u-1/k0/0")


def test_video_of_odd_sizes_and_any_rate(tmp_path: Path) -> None:
    frames = np.zeros((3, 33, 47, 3), np.uint8)
    frames[1] = 255
    write_video(str(tmp_path / "a.mp4"), frames, 23.976)
    back, fps = frames_of(tmp_path / "a.mp4")
    assert back.shape == (3, 32, 46, 3)
    assert [round(frame.mean() / 255) for frame in back] == [0, 1, 0]
    assert fps == pytest.approx(23.976, abs=0.01)
