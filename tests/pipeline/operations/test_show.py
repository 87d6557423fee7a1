"""A clip is found by its id, and its video shows original and decoded frames beside each other."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.row_sampling import read_row
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.compact import compact
from pipeline.operations.show import (
    ShownClip,
    ShownPicture,
    draw_strips,
    find_row,
    first_rows,
    show_clip,
    write_video,
)
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, sound, write_log
from tests.pipeline.units import deliver


def frames_of(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate or 0)


@pytest.fixture(scope="module")
def psnr_db(corpus: Store) -> dict[str, list[float]]:
    """PSNR of all clips."""
    return verify(corpus, decode=1000).psnr_db


@pytest.fixture(scope="module")
def shown(corpus: Store, tmp_path_factory: pytest.TempPathFactory) -> ShownClip:
    """The second clip of the corpus, with its video."""
    [unit] = read_manifest(corpus).units()
    out = tmp_path_factory.mktemp("video") / "clip.mp4"
    return show_clip(corpus, f"{unit.unit}/hiker.mp4/1", str(out))


def test_a_clip_beside_its_tokens(shown: ShownClip, psnr_db: dict[str, list[float]]) -> None:
    assert shown.row["num_frames"] == 5
    assert shown.row["start_s"] == pytest.approx(1.25)
    frames, fps = frames_of(Path(str(shown.video)))
    assert frames.shape == (5, 32, 3 * 40, 3)
    assert fps == pytest.approx(4)
    original, *decoded = np.split(frames.astype(float), 3, axis=2)
    for name, clip in zip(("fsq", "kl"), decoded, strict=True):
        error = ((original - clip) ** 2).mean()
        assert 10 * np.log10(255**2 / error) == pytest.approx(shown.psnr_db[name], abs=1.5)
        assert psnr_db[name].count(shown.psnr_db[name]) == 1
    lines = shown.lines()
    assert f"clip_id        {shown.row['clip_id']}" in lines
    assert "fsq            160 bytes" in lines
    assert lines[-1].startswith(f"video          {shown.video}: original | fsq ")


def test_a_picture_of_clips_above_their_tokens(
    corpus: Store, shown: ShownClip, psnr_db: dict[str, list[float]], tmp_path: Path
) -> None:
    path = tmp_path / "clips.png"
    command = ["show", corpus.uri, "--picture", str(path), "--clips", "2", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [clip.rpartition("/")[2] for clip in found["clips"]] == ["0", "1"]
    assert found["clips"][1] == shown.row["clip_id"]
    for name, mean_db in found["psnr_db"].items():
        assert 2 * mean_db - shown.psnr_db[name] in [pytest.approx(v) for v in psnr_db[name]]
    assert (found["picture"], found["untrained"]) == (str(path), [])
    lines = ShownPicture(**found).lines()
    assert lines[0].startswith("psnr       fsq: ")
    assert lines[-1] == f"picture    {path}"
    picture = np.array(Image.open(path))
    assert picture.shape == (2 * 3 * (32 + 4), 150 + 5 * (40 + 4), 3)
    first = np.concatenate([picture[n * 36 :][:32, 150:190] for n in range(3, 6)], axis=1)
    frames, _ = frames_of(Path(str(shown.video)))
    assert np.abs(first.astype(int) - frames[0]).mean() < 4, "the rows of the second clip"


def test_without_an_id_the_first_clip_is_shown(corpus: Store) -> None:
    done = CliRunner().invoke(app, ["show", corpus.uri])
    assert done.exit_code == 0, done.output
    [unit] = read_manifest(corpus).units()
    lines = done.stdout.splitlines()
    assert f"clip_id        {unit.unit}/hiker.mp4/0" in lines
    assert lines[-1] == "choice         first clip of the first unit by name; or --clip ID"


@pytest.mark.parametrize(("width", "shown"), [(8, 6), (128, 6), (256, 4), (512, 2), (1024, 2)])
def test_wide_clips_have_fewer_frames_in_a_picture(width: int, shown: int) -> None:
    """A page shrinks a wide picture, so fewer frames show more of each."""
    clip = np.zeros((17, 8, width, 3), np.uint8)
    assert draw_strips([("clip", clip)]).size == (150 + shown * (width + 4), 8 + 4)


@pytest.mark.parametrize("committed", [[0, 1], [1, 0]])
def test_a_picture_shows_different_samples_first(committed: list[int], tmp_path: Path) -> None:
    """The order in which units were committed changes nothing."""
    store = Store(str(tmp_path))
    units = [commit(store, deliver("u-1", batches=(2, 2))), commit(store, deliver("u-2"))]
    write_log(store, [units[n] for n in committed])
    manifest = read_manifest(store)

    def ids(count: int) -> list[str]:
        return [read_row(store, row)["clip_id"] for row in first_rows(store, manifest, count)]

    assert ids(2) == ["u-1/k0/0", "u-1/k1/0"]
    every = ids(100)
    assert every[:8] == [
        *("u-1/k0/0", "u-2/k0/0", "u-1/k1/0", "u-2/k1/0", "u-2/k2/0", "u-2/k3/0"),
        *("u-1/k0/1", "u-2/k0/1"),
    ]
    assert len(set(every)) == len(every) == 12


@pytest.mark.parametrize(
    "options",
    [["--clip", "u/k/0", "--picture", "a.png"], ["--picture", "a.png", "--out", "a.mp4"]],
)
def test_one_thing_is_shown(tmp_path: Path, options: list[str]) -> None:
    done = CliRunner().invoke(app, ["show", str(tmp_path), *options])
    assert done.exit_code == 2
    assert "--picture: cannot be combined with --clip or --out" in done.stderr


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


def test_a_source_that_is_gone(
    corpus: Store, tmp_path: Path, without_source: Callable[[], AbstractContextManager[None]]
) -> None:
    [unit] = read_manifest(corpus).units()
    out = tmp_path / "clip.mp4"
    says = pytest.raises(StoreError, match=r"hiker\.mp4/0: .*without --out")
    with without_source(), says:
        show_clip(corpus, f"{unit.unit}/hiker.mp4/0", str(out))
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
