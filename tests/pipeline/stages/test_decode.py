"""The decode stage on lists: how rows are cut, and that every sample and clip is counted once."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.dataset.log.forgotten import Forgotten, key_digest
from pipeline.decode import clip_rules
from pipeline.errors import StoreError
from pipeline.quarantine import Quarantined
from pipeline.records import Clip, Sample, WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.stages import decode as decode_stage
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import BatchRow, Closing
from tests.pipeline.fakes import clip
from tests.pipeline.stages.scripted import (
    CLIP,
    SCRIPTS,
    UNIT,
    WIDTHS,
    FakeDecoder,
    Script,
    buckets,
    decode_stage_of,
    run,
)


def test_rows_are_full_but_for_the_last_and_span_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, closing = run(monkeypatch, [("1", 2, 0, False), ("2", 5, 0, False)])
    assert [[c.clip_id for c in row.header.clips] for row in rows] == [
        ["u/1/0", "u/1/1", "u/2/0"],
        ["u/2/1", "u/2/2", "u/2/3"],
        ["u/2/4"],
    ]
    assert [row.frames.shape for row in rows] == [(3, 2, 4, 6, 3)] * 2 + [(1, 2, 4, 6, 3)]
    assert [row.frames[:, 0, 0, 0, 0].tolist() for row in rows] == [
        [16, 17, 32],
        [33, 34, 35],
        [36],
    ], "a row's frames stay what they were when the next rows are filled"
    assert [row.header.seq for row in rows] == [0, 1, 2]
    assert closing.digests == tuple(row.header.digest() for row in rows)
    assert (closing.counts.samples_with_clips, closing.counts.clips_written) == (2, 7)


def test_forgotten_samples_are_counted_and_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Quarantined(
        unit="u", key="5", clip_index=None, stage="read", reason="no_video", detail="-"
    )
    script: list[Script | Quarantined] = [
        ("1", 2, 0, False),
        ("2", 2, 0, True),
        ("3", 1, 1, False),
        ("4", 0, 1, False),
        lost,
    ]
    gone = {key_digest("2"), key_digest("3", "u"), key_digest("1", "other"), key_digest("5")}
    rows, closing = run(monkeypatch, script, forgotten=Forgotten(gone))
    assert [c.clip_id for row in rows for c in row.header.clips] == ["u/1/0", "u/1/1"]
    counts = closing.counts
    assert (counts.samples_read, counts.samples_forgotten, counts.samples_quarantined) == (5, 3, 0)
    assert (counts.clips_seen, counts.imbalance()) == (3, None)
    assert [record.key for record in closing.quarantined] == ["4"]


def test_a_replay_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[Script | Quarantined] = [("1", 4, 1, True), ("2", 0, 0, True)]
    first, closing = run(monkeypatch, script)
    again, closing_again = run(monkeypatch, script)
    assert [row.header for row in first] == [row.header for row in again]
    assert (closing.digests, closing.quarantined) == (
        closing_again.digests,
        closing_again.quarantined,
    )


def test_a_replay_in_which_a_sample_fails_shows_in_the_digests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, right = run(monkeypatch, [("1", 3, 0, False), ("2", 3, 0, False)])
    _, wrong = run(monkeypatch, [("1", 2, 0, True), ("2", 4, 0, False)])
    assert right.counts.clips_written == wrong.counts.clips_written, "counts do not show it"
    assert not set(right.digests) & set(wrong.digests)


def test_a_video_that_breaks_keeps_its_clips_and_loses_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, closing = run(monkeypatch, [("1", 2, 0, True)])
    assert caplog.messages == ["quarantined u/1/2: decode: corrupt: bad bits"]
    [lost] = closing.quarantined
    assert (lost.key, lost.clip_index, lost.stage, lost.reason) == ("1", 2, "decode", "corrupt")
    counts = closing.counts
    assert (counts.samples_with_clips, counts.samples_quarantined) == (1, 0)
    assert (counts.clips_seen, counts.clips_written, counts.clips_quarantined) == (3, 2, 1)


@pytest.mark.parametrize(("filtered", "clips_seen"), [(0, 0), (1, 1)])
def test_a_video_that_breaks_before_its_first_clip_is_lost_whole(
    monkeypatch: pytest.MonkeyPatch, filtered: int, clips_seen: int
) -> None:
    _, closing = run(monkeypatch, [("1", 0, filtered, True)])
    [lost] = closing.quarantined
    assert lost.clip_index is None
    assert closing.counts.samples_quarantined == 1
    assert closing.counts.clips_seen == clips_seen


def test_a_slow_source_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(monkeypatch, [("1", 1, 0, False)])
    assert caplog.messages == []
    monkeypatch.setattr(decode_stage, "SLOW_READ_S", -1.0)
    run(monkeypatch, [("1", 1, 0, False), ("2", 1, 0, False)])
    assert caplog.messages == [f"u/{key}: slow source: reading took 0 s" for key in "12"]


def test_a_video_without_a_whole_clip_is_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[Script | Quarantined] = [("1", 0, 1, False), ("2", 0, 0, False)]
    rows, closing = run(monkeypatch, script)
    assert rows == []
    counts = closing.counts
    assert (counts.samples_filtered, counts.clips_filtered, counts.clips_seen) == (2, 2, 2)
    assert closing.dropped == {"too_short": 2}
    assert all(record.is_filtered for record in closing.quarantined)
    assert [str(record) for record in closing.quarantined] == [
        "u/1: filter: too_short: frames: 5 in 0.50 s; a clip of the shortest bucket has 2",
        "u/2: filter: too_short: frames: 0 in 0.00 s; a clip of the shortest bucket has 2",
    ]


def test_the_seconds_of_all_clips_seen_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    _, closing = run(monkeypatch, [("1", 3, 1, False), ("2", 0, 1, False), ("3", 1, 0, True)])
    assert closing.counts.microseconds_decoded == 6 * 500_000


def test_a_unit_without_samples_has_a_closing_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, closing = run(monkeypatch, [])
    assert (rows, closing.digests) == ([], ())


def test_a_store_that_fails_gives_no_closing_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: SampleReader, unit: WorkUnit, **__: bool) -> Iterator[Sample]:
        yield Sample(key="1", video=bytes((3, 0, 0)), video_name="1.mp4")
        raise StoreError("no answer")

    monkeypatch.setattr(decode_stage, "Decoder", FakeDecoder)
    monkeypatch.setattr(SampleReader, "read", read)
    stage = decode_stage_of(CLIP, 3)
    rows = []
    with pytest.raises(StoreError):
        rows.extend(stage(UNIT))
    assert not any(isinstance(row, Closing) for row in rows)


def test_each_bucket_has_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[Script | Quarantined] = [
        ("0", 2, 0, False),
        ("1", 1, 0, False),
        ("3", 3, 1, False),
        ("2", 1, 0, True),
        ("4", 1, 0, False),
    ]
    rows, closing = run(monkeypatch, script, clip_config=buckets(len(WIDTHS)))
    found = [(row.header.bucket.name, [c.clip_id for c in row.header.clips]) for row in rows]
    assert found == [
        ("2x4x6", ["u/0/0", "u/0/1", "u/3/0"]),
        # Those that are not full leave in the order in which they were begun.
        ("2x4x8", ["u/1/0", "u/4/0"]),
        ("2x4x6", ["u/3/1", "u/3/2"]),
        ("2x4x10", ["u/2/0"]),
    ]
    assert [row.header.seq for row in rows] == [0, 1, 2, 3]
    assert closing.digests == tuple(row.header.digest() for row in rows)


@given(scripts=SCRIPTS, row_clips=st.integers(1, 5), num_buckets=st.integers(1, 3))
def test_everything_is_accounted_for(
    scripts: list[tuple[int, int, bool, bool]], row_clips: int, num_buckets: int
) -> None:
    config = buckets(num_buckets)
    rules = clip_rules(config.identity())
    samples: list[Script | Quarantined] = []
    for n, (written, filtered, broken, unread) in enumerate(scripts):
        record = Quarantined(
            unit="u", key=str(n), clip_index=None, stage="read", reason="no_video", detail=""
        )
        samples.append(record if unread else (str(n), written, filtered, broken))
    with pytest.MonkeyPatch.context() as patch:
        rows, closing = run(patch, samples, row_clips, config)
    counts = closing.counts
    assert counts.imbalance() is None
    assert sum(closing.dropped.values()) == counts.clips_filtered
    assert counts.samples_read == len(samples)
    assert counts.samples_filtered == sum(q.is_filtered for q in closing.quarantined)
    lost = [q for q in closing.quarantined if not q.is_filtered]
    lost_samples = sum(q.clip_index is None for q in lost)
    assert counts.samples_quarantined == lost_samples
    assert counts.clips_quarantined == len(lost) - lost_samples
    ids = [c.clip_id for row in rows for c in row.header.clips]
    assert len(ids) == len(set(ids)) == counts.clips_written
    for rule in rules:
        mine = [row for row in rows if row.header.bucket.width == rule.width]
        assert all(len(row.frames) == row_clips for row in mine[:-1])
        order = [(int(c.key), c.clip_index) for row in mine for c in row.header.clips]
        assert order == sorted(order), "a bucket's rows keep the order of the source"
        for row in mine:
            keys = [int(c.key) for c in row.header.clips]
            assert row.frames.shape == (len(keys), *rule.shape)
            values = [(int(c.key) * 16 + c.clip_index) % 256 for c in row.header.clips]
            assert row.frames[:, 0, 0, 0, 0].tolist() == values
            assert {rules[key % len(rules)] for key in keys} == {rule}


class TestOneByOne:
    """A unit that keeps failing is decoded one by one."""

    @staticmethod
    def stage(
        monkeypatch: pytest.MonkeyPatch, fails: dict[str, Exception], keys: str
    ) -> tuple[DecodeStage, WorkUnit]:
        """Return a stage in which the decoding of some samples raises."""

        class Failing(FakeDecoder):
            def decode(
                self, sample: Sample, unit: str
            ) -> Iterator[tuple[Clip, NDArray[Any] | None]]:
                caption = "half a pair: \ud83d" if sample.key == "x" else None
                made = replace(clip(0, unit, sample.key), caption=caption)
                yield made, np.zeros(self.rules[0].shape, np.uint8)
                if sample.key in fails:
                    raise fails[sample.key]

        def read(_: SampleReader, unit: WorkUnit, **__: bool) -> Iterator[Sample]:
            return (Sample(key=key, video=b"", video_name="v.mp4") for key in keys)

        monkeypatch.setattr(decode_stage, "Decoder", Failing)
        monkeypatch.setattr(SampleReader, "read", read)
        return decode_stage_of(CLIP, 2), UNIT

    def test_only_the_guilty_sample_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage, unit = self.stage(monkeypatch, {"2": KeyError("a bug")}, "123")
        with pytest.raises(KeyError):
            list(stage(unit))
        *rows, closing = stage(unit, one_by_one=True)
        assert isinstance(closing, Closing)
        [record] = closing.quarantined
        assert (record.key, record.clip_index, record.reason) == ("2", 1, "given_up")
        assert record.detail == "KeyError: 'a bug'"
        kept = [c.clip_id for row in rows if isinstance(row, BatchRow) for c in row.header.clips]
        assert kept == ["u/1/0", "u/2/0", "u/3/0"]

    def test_text_that_cannot_be_stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage, unit = self.stage(monkeypatch, {}, "1x3")
        *_, closing = stage(unit, one_by_one=True)
        assert isinstance(closing, Closing)
        [record] = closing.quarantined
        assert (record.key, record.reason) == ("x", "given_up")
        assert closing.counts.clips_written == 2

    @pytest.mark.parametrize(
        ("fails", "raised"), [("123", True), ("23", True), ("3", False), ("12", False)]
    )
    def test_a_store_that_is_away_is_nobody_s_fault(
        self, monkeypatch: pytest.MonkeyPatch, fails: str, raised: bool
    ) -> None:
        errors: dict[str, Exception] = {key: StoreError(f"{key}: 503") for key in fails}
        stage, unit = self.stage(monkeypatch, errors, "123")
        if raised:
            with pytest.raises(StoreError, match="3: 503; "):
                list(stage(unit, one_by_one=True))
            return
        *_, closing = stage(unit, one_by_one=True)
        assert isinstance(closing, Closing)
        assert [record.key for record in closing.quarantined] == list(fails)

    def test_lack_of_memory_is_not_the_sample_s_fault(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage, unit = self.stage(monkeypatch, {"2": MemoryError()}, "123")
        with pytest.raises(MemoryError):
            list(stage(unit, one_by_one=True))
