"""A clip is found by its id, and its video shows original and decoded frames beside each other."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.compact import compact
from pipeline.operations.show import find_row, show, write_video
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
    found = show(corpus, clip_id, str(out))
    assert (found.row["clip_id"], found.row["num_frames"]) == (clip_id, 5)
    assert found.row["start_s"] == pytest.approx(1.25)
    frames, fps = frames_of(out)
    assert frames.shape == (5, 32, 3 * 40, 3)
    assert fps == pytest.approx(4)
    original, *decoded = np.split(frames.astype(float), 3, axis=2)
    for name, clip in zip(("fsq", "kl"), decoded, strict=True):
        error = ((original - clip) ** 2).mean()
        assert 10 * np.log10(255**2 / error) == pytest.approx(found.psnr_db[name], abs=1.5)
    assert verify(corpus, decode=1000).psnr["fsq"].count(found.psnr_db["fsq"]) == 1
    lines = found.lines()
    assert f"clip_id        {clip_id}" in lines
    assert "fsq            160 bytes" in lines
    assert lines[-1].startswith(f"video          {out}: original | fsq ")


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
                assert show(store, clip_id).row["clip_id"] == clip_id
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
        show(store, f"{unit.unit}/hiker.mp4/0", str(out))
    assert not out.exists()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = sound(store)[1]
    store.write(record.parts[0].path, b"PAR1 or not")
    with pytest.raises(StoreError, match=r"u-1-0-.*verify"):
        show(store, "u-1/k0/0")


def test_video_of_odd_sizes_and_any_rate(tmp_path: Path) -> None:
    frames = np.zeros((3, 33, 47, 3), np.uint8)
    frames[1] = 255
    write_video(str(tmp_path / "a.mp4"), frames, 23.976)
    back, fps = frames_of(tmp_path / "a.mp4")
    assert back.shape == (3, 32, 46, 3)
    assert [round(frame.mean() / 255) for frame in back] == [0, 1, 0]
    assert fps == pytest.approx(23.976, abs=0.01)
