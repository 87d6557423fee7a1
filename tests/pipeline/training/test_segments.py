"""Real videos as segments: their lengths, sizes and rates, what is skipped and what is kept."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.sources.planning import plan_units
from pipeline.sources.reader import SampleReader
from pipeline.training.clip_config import ClipSourceConfig
from pipeline.training.segments import Segment, SegmentReader
from tests.assets import BIKES, HIKER, ONE_FRAME, ROTATED, VIDEOS
from tests.pipeline.tars import make_tar
from tests.pipeline.training.sources import source

Reader = Callable[[ClipSourceConfig], SegmentReader]


@pytest.fixture
def reader() -> Iterator[Reader]:
    opened: list[SegmentReader] = []

    def make(config: ClipSourceConfig) -> SegmentReader:
        opened.append(SegmentReader(config))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def read_all(reader: SegmentReader, config: ClipSourceConfig) -> list[Segment]:
    return [segment for unit in plan_units(config, single=True) for segment in reader.read(unit)]


def test_a_video_is_cut_into_segments(reader: Reader):
    """Of 250 frames 2 are left, too few for a clip; one frame is all that there is of another."""
    config = source(uri=[str(a.path) for a in (BIKES, HIKER, ONE_FRAME)], segment_frames=62)
    found = read_all(reader(config), config)
    assert [(segment.index, len(segment.frames)) for segment in found] == [
        *((index, 62) for index in range(4)),
        (0, 49),
        (0, 1),
    ]
    assert [segment.fps for segment in found[::4]] == [BIKES.fps, HIKER.fps]
    assert found[4].frames.base is None  # else it would hold the memory of its padding


def test_pictures_are_whole_and_cover_the_clip(reader: Reader):
    wide, upright = str(BIKES.path), str(ROTATED[0].path)
    config = source(uri=[wide, upright], height=24, width=24, short_side=32)
    sizes = {s.key: s.frames.shape[1:3] for s in read_all(reader(config), config)}
    assert sizes == {"bikes.mp4": (32, 75), "video_90.mov": (56, 32)}
    config = source(uri=[upright], height=24, width=48, short_side=32)
    assert config.decoded == (32, 64)
    assert read_all(reader(config), config)[0].frames.shape[1:3] == (113, 64)


def test_videos_can_be_decoded_at_a_rate(reader: Reader):
    config = source(uri=[str(BIKES.path)], decode_fps=8, segment_frames=100)
    (segment,) = read_all(reader(config), config)
    assert (segment.fps, len(segment.frames)) == (8, BIKES.picks_at_8_fps)


def test_broken_videos_are_skipped_with_a_reason(reader: Reader):
    config = source(uri=[str(VIDEOS / "broken"), str(HIKER.path)], segment_frames=17)
    one = reader(config)
    found = read_all(one, config)
    used = [segment.key for segment in found]
    assert used.count("hiker_tiny.mp4") == 3
    # The frames before the damage are used, and nothing replaces those after it.
    assert used.count("truncated_half.mp4") == 1
    assert len(one.skipped) == 10
    assert all(segment.frames.any() for segment in found)
    reasons = {name.partition("/")[2]: why for name, why in one.skipped.items()}
    assert reasons["truncated_half.mp4"].startswith("truncated: ")
    assert reasons["text.mp4"] == "not_a_video: no container format was recognised"
    assert read_all(one, config)
    assert len(one.skipped) == 10


def test_a_tar_is_read_from_a_sample_on(tmp_path: Path, reader: Reader):
    (tmp_path / "a.tar").write_bytes(
        make_tar(
            [
                ("x.mp4", HIKER.path.read_bytes()),
                ("y.mp4", b"no video"),
                ("z.mp4", ONE_FRAME.path.read_bytes()),
                ("alone.txt", b"no video at all"),
            ]
        )
    )
    config = source(uri=[str(tmp_path / "a.tar")])
    (unit,) = plan_units(config, single=True)
    one = reader(config)
    assert [(s.sample, s.key) for s in one.read(unit)] == [(0, "x"), (2, "z")]
    assert [(s.sample, s.key) for s in one.read(unit, 1)] == [(2, "z")]
    assert [why.partition(":")[0] for why in one.skipped.values()] == ["not_a_video", "no_video"]


def test_names_can_be_excluded(tmp_path: Path, reader: Reader):
    video = HIKER.path.read_bytes()
    for name in ("train/a.mp4", "train/b.mp4", "held/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(video)
    (tmp_path / "d.tar").write_bytes(make_tar([("x.mp4", video), ("y.mp4", video)]))
    config = source(uri=str(tmp_path), exclude=["*/held/*", "train/b.*", "x"])
    keys = [segment.key for segment in read_all(reader(config), config)]
    assert keys == ["y", "train/a.mp4"]
    with pytest.raises(ConfigError, match=r"source.exclude: excludes all sources"):
        plan_units(source(uri=str(tmp_path), exclude="*"), single=True)


def test_what_is_kept_is_not_read_again(reader: Reader, monkeypatch: pytest.MonkeyPatch):
    config = source(uri=[str(BIKES.path), str(HIKER.path)], keep_mb=1, height=32, width=32)
    large, small = plan_units(config, single=True)  # 250 frames of 7 kB, 49 of 5 kB
    one = reader(config)
    first = list(one.read(small))
    assert sum(segment.frames.nbytes for segment in one.read(large)) > 1 << 20

    def refuse(*_: object) -> Iterator[Segment]:
        raise AssertionError("read again")

    monkeypatch.setattr(SampleReader, "read", refuse)
    again = list(one.read(small))
    assert [s.frames is t.frames for s, t in zip(first, again, strict=True)] == [True]
    with pytest.raises(AssertionError, match="read again"):
        next(one.read(large))


def test_a_unit_that_gave_nothing_is_known(reader: Reader):
    config = source(uri=[str(VIDEOS / "broken" / "text.mp4"), str(ONE_FRAME.path)])
    units = plan_units(config, single=True)
    one = reader(config)
    assert not one.has_nothing(units)
    assert list(one.read(units[0])) == []
    assert one.has_nothing(units[:1])
    assert not one.has_nothing(units)
    assert np.all([len(s.frames) for s in one.read(units[1])])
    assert not one.has_nothing(units)
