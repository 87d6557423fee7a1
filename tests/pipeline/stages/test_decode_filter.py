"""Clips that `clip.filter` drops in the decode stage: the clip's number is its measure."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from pipeline.quarantine import Quarantined
from pipeline.records import Clip, Sample
from pipeline.stages.messages import decode_rows
from tests.pipeline.stages.scripted import (
    CLIP,
    SCRIPTS,
    FakeDecoder,
    Script,
    run,
)

FIRST, SECOND, THIRD = "luma >= 0.02", "blur / luma < 0.4", "luma < 0.05"
FILTER = f"{FIRST} and {SECOND} and {THIRD}"
CONFIG = CLIP.model_copy(update={"measure": ["luma", "blur"], "filter": FILTER})


def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = FakeDecoder.decode

    def with_measures(
        self: FakeDecoder, sample: Sample, unit: str
    ) -> Iterator[tuple[Clip, NDArray[Any] | None]]:
        for made, frames in decode(self, sample, unit):
            side = {"luma": made.clip_index / 100, "blur": 0.01}
            yield (made if frames is None else replace(made, side=side)), frames

    monkeypatch.setattr(FakeDecoder, "decode", with_measures)


def test_dropped_clips_are_counted_by_rule_and_become_no_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(monkeypatch)
    rows, closing = run(monkeypatch, [("1", 7, 1, False)], clip_config=CONFIG)
    kept = [(c.clip_id, c.side["luma"]) for row in rows for c in row.header.clips]
    assert kept == [("u/1/3", 0.03), ("u/1/4", 0.04)]
    assert [row.frames[:, 0, 0, 0, 0].tolist() for row in rows] == [[19, 20]]
    assert closing.dropped == {FIRST: 2, SECOND: 1, THIRD: 2, "tail": 1}
    counts = closing.counts
    assert (counts.clips_seen, counts.clips_written, counts.clips_filtered) == (8, 2, 6)
    table = decode_rows(rows[0].side)
    assert table.schema.names == ["luma", "blur"]
    assert table["luma"].to_pylist() == [np.float32(0.03), np.float32(0.04)]


def test_a_sample_that_loses_all_clips_to_it_is_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch)
    samples = [("1", 2, 1, False), ("2", 0, 1, False), ("3", 1, 0, True), ("4", 4, 0, False)]
    _, closing = run(monkeypatch, [*samples], clip_config=CONFIG)
    assert [str(record) for record in closing.quarantined] == [
        f"u/1: filter: clip_filter: clips dropped: 2 by {FIRST}; 1 by tail",
        "u/2: filter: too_short: frames: 5 in 0.50 s; a clip of the shortest bucket has 2",
        "u/3: decode: corrupt: bad bits",
    ]
    counts = closing.counts
    assert (counts.samples_filtered, counts.samples_quarantined) == (2, 1)
    assert counts.imbalance() is None
    assert closing.dropped == {FIRST: 5, SECOND: 1, "tail": 1, "too_short": 1}


@given(scripts=SCRIPTS)
def test_everything_is_accounted_for(scripts: list[tuple[int, int, bool, bool]]) -> None:
    samples: list[Script | Quarantined] = [(str(n), *s[:3]) for n, s in enumerate(scripts)]
    with pytest.MonkeyPatch.context() as patch:
        measured(patch)
        rows, closing = run(patch, samples, clip_config=CONFIG)
    counts = closing.counts
    assert counts.imbalance() is None
    assert sum(closing.dropped.values()) == counts.clips_filtered
    assert counts.clips_written == sum(len(row.header.clips) for row in rows)
    kept = sum(min(max(written - 3, 0), 2) for written, *_ in scripts)
    assert counts.clips_written == kept
    assert counts.samples_filtered == sum(q.is_filtered for q in closing.quarantined)
