"""Order, shares and cursors of the stream, on segments that cost nothing to read."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.records import WorkUnit
from pipeline.training import stream as module
from pipeline.training.clip_config import ClipSourceConfig
from pipeline.training.segments import Segment
from pipeline.training.stream import ClipStream, dealt_again
from tests.pipeline.training.sources import source

Corpus = dict[str, list[int]]
"""Segments of each sample of each unit; no segment is a broken video."""


class Shelf:
    """A fake `SegmentReader`: a picture is one pixel that identifies its segment."""

    corpus: Corpus

    def __init__(self, config: ClipSourceConfig) -> None:
        self.skipped: dict[str, str] = {}
        self._seen: set[str] = set()

    def read(self, unit: WorkUnit, first_sample: int = 0) -> Iterator[Segment]:
        self._seen.add(unit.unit)
        for sample, num in enumerate(self.corpus[unit.unit]):
            if sample < first_sample:
                continue
            if not num:
                self.skipped.setdefault(f"{unit.unit}/{sample}", "corrupt: made so")
            for index in range(num):
                pixel = np.array([int(unit.unit), sample, index], np.uint8)
                frames = np.tile(pixel, (300, 1, 1, 1))
                frames[:, 0, 0, 2] += (np.arange(300) // 100 * 100).astype(np.uint8)  # and when
                yield Segment(
                    key=f"{unit.unit}/{sample}", sample=sample, index=index, fps=30, frames=frames
                )

    def has_nothing(self, units: Sequence[WorkUnit]) -> bool:
        return all(u.unit in self._seen and not any(self.corpus[u.unit]) for u in units)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SegmentReader", Shelf)


def made(corpus: Corpus, lane: int = 0, lanes: int = 1, cursor=None, **changes: int) -> ClipStream:
    Shelf.corpus = corpus
    config = source(height=1, width=1, **changes)
    units = [WorkUnit(unit=name) for name in corpus]
    return ClipStream(config, units, lane=lane, lanes=lanes, cursor=cursor)


def owners(stream: ClipStream, epochs: int = 1) -> list[tuple[int, int, int]]:
    """Return unit, sample and segment of the clips of the first epochs."""
    found = []
    for clip in stream:
        if stream.cursor()["epoch"] == epochs:
            break
        unit, sample, index = clip[0, 0, 0].tolist()
        found.append((unit, sample, index % 100))
    return found


CORPORA = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=6).map(
    lambda units: {str(n): samples for n, samples in enumerate(units)}
)


def segments_of(corpus: Corpus) -> set[tuple[int, int, int]]:
    return {
        (int(unit), sample, index)
        for unit, samples in corpus.items()
        for sample, num in enumerate(samples)
        for index in range(num)
    }


@given(CORPORA.filter(segments_of), st.integers(1, 4), st.integers(1, 5), st.integers(0, 9))
def test_an_epoch_takes_every_segment_equally_often(
    corpus: Corpus, windows: int, shuffle: int, seed: int
):
    stream = made(corpus, windows_per_segment=windows, shuffle_segments=shuffle, seed=seed)
    taken = Counter(owners(stream))
    assert taken == dict.fromkeys(segments_of(corpus), windows)


@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 99))
def test_lanes_share_out_an_epoch_without_overlap(lanes: int, more: int, seed: int):
    corpus = {str(n): [1 + n % 2] for n in range(lanes + more)}
    taken = [Counter(owners(made(corpus, lane, lanes, seed=seed))) for lane in range(lanes)]
    together = sum(taken, Counter())
    assert together == dict.fromkeys(segments_of(corpus), 2)
    assert all(taken)


def test_lanes_that_share_a_video_cut_other_windows():
    corpus = {"0": [3], "1": [3]}
    clips = [list(islice(made(corpus, lane, 5), 6)) for lane in range(5)]
    owner = [clip[0][0, 0, 0, 0].item() for clip in clips]
    assert [owner[lane] == owner[lane - 2] for lane in (2, 3, 4)] == [True] * 3
    assert owner[0] != owner[1]
    # The same segments, and from each other windows: their frames differ.
    same = [sorted(c.flatten().tolist() for c in clips[n]) for n in (0, 2, 4)]
    assert same[0] != same[1] != same[2] != same[0]


def test_every_epoch_has_an_order_of_its_own():
    corpus = {str(n): [1] for n in range(20)}
    stream = made(corpus, windows_per_segment=1)
    clips = [clip[0, 0, 0, 0].item() for clip in islice(stream, 60)]
    epochs = [clips[:20], clips[20:40], clips[40:]]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(range(20))


def test_the_pool_mixes_videos():
    taken = [owner[0] for owner in owners(made({str(n): [4] for n in range(8)}))]
    runs = 1 + sum(a != b for a, b in pairwise(taken))
    assert runs > 2 * 8


@given(
    CORPORA.filter(segments_of),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 40),
    st.data(),
)
def test_a_cursor_goes_on_with_the_very_same_clips(
    corpus: Corpus, windows: int, shuffle: int, lanes: int, done: int, data: st.DataObject
):
    how = {"windows_per_segment": windows, "shuffle_segments": shuffle, "lanes": lanes}
    lane = data.draw(st.integers(0, lanes - 1))
    stream = made(corpus, lane, **how)
    clips = iter(stream)
    for _ in range(done):
        next(clips)
    cursor = json.loads(json.dumps(stream.cursor()))
    other = made(corpus, lane, cursor=cursor, **how)
    for clip, again in zip(islice(clips, 30), other, strict=False):
        assert clip.tolist() == again.tolist()
        assert stream.cursor() == other.cursor()


@given(
    CORPORA,
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_other_numbers_of_lanes_share_what_no_lane_has_begun(
    corpus: Corpus, runs: list[tuple[int, int]], windows: int, seed: int
):
    """A run has a number of lanes, and stops after a number of clips."""
    corpus = {unit: [1 + num for num in samples] for unit, samples in corpus.items()}
    how = {"windows_per_segment": windows, "shuffle_segments": 2, "seed": seed}
    start, shown = None, Counter()
    for lanes, clips in runs:
        streams = [made(corpus, lane, lanes, start, **how) for lane in range(lanes)]
        begun = [(stream, iter(stream)) for stream in streams]
        for stream, taken in islice(cycle(begun), clips):
            unit, sample, index = next(taken)[0, 0, 0].tolist()
            shown[stream.cursor()["epoch"], unit, sample, index % 100] += 1
        start = json.loads(json.dumps(dealt_again([s.cursor() for s in streams], len(corpus))))
    epoch = start["epoch"] if start else 0
    rest = Counter(owners(made(corpus, cursor=start, **how), epoch + 1))
    begun_units = sum(map(sum, start["taken"])) if start else 0
    left = {unit for unit, _, _ in rest}
    assert len(left) == len(corpus) - begun_units
    assert not left & {unit for at, unit, _, _ in shown if at == epoch}
    assert rest == {part: windows for part in segments_of(corpus) if part[0] in left}
    if max(lanes for lanes, _ in runs) <= len(corpus):  # more lanes cut more windows of a video
        assert max(shown.values(), default=0) <= windows


def test_seeds_differ_and_repeat():
    corpus = {str(n): [1] for n in range(9)}
    a, b, c = (
        [clip.tolist() for clip in islice(made(corpus, seed=seed), 18)] for seed in (1, 1, 2)
    )
    assert a == b
    assert a != c


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_a_lane_whose_videos_are_broken_goes_on_with_the_next_epoch(lanes: int):
    corpus = {"0": [0], "1": [2], "2": [0, 0]}
    for lane in range(lanes):
        stream = made(corpus, lane, lanes)
        assert {clip[0, 0, 0, 0].item() for clip in islice(stream, 10)} == {1}
        assert set(stream.skipped) <= {"0/0", "2/0", "2/1"}


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_a_source_without_a_good_video_ends_with_one_line(lanes: int):
    stream = made({"0": [0], "1": [0], "2": [0]}, lanes - 1, lanes)
    with pytest.raises(
        ConfigError, match=r"none of 3 sources has a readable frame; ./0: corrupt: made so"
    ):
        next(iter(stream))
