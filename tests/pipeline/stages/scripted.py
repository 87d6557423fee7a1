"""The decode stage over samples whose clips are scripted."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config.job import BucketConfig, ClipConfig, DecodeConfig
from pipeline.config.source import VideoSource
from pipeline.dataset.log.forgotten import NOTHING, Forgotten
from pipeline.decode import ClipRule, DecodeLimits
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Clip, Sample, WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.stages import decode as decode_stage
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import BatchRow, Closing
from tests.pipeline.fakes import clip

CLIP = ClipConfig(frames=2, height=4, width=6)
UNIT = WorkUnit(unit="u", tar_uri="/u.tar")

WIDTHS = (6, 8, 10)
"""Of three buckets: a sample's key says which is its own."""

Script = tuple[str, int, int, bool]
"""A sample: key, clips with frames, clips without, whether it breaks in the end."""


class FakeDecoder:
    """Plays the script that is stored in a sample's bytes."""

    def __init__(self, rules: Sequence[ClipRule], limits: DecodeLimits, *_: object) -> None:
        self.rules = rules
        self.shortest = 2
        self.shot_ends: list[float] = []

    def decode(self, sample: Sample, unit: str) -> Iterator[tuple[Clip, NDArray[Any] | None]]:
        assert isinstance(sample.video, bytes)
        written, filtered, broken = sample.video
        shape = self.rules[int(sample.key) % len(self.rules)].shape
        for n in range(written):
            value = (int(sample.key) * 16 + n) % 256
            yield clip(n, unit, sample.key), np.full(shape, value, np.uint8)
        for n in range(written, written + filtered):
            yield replace(clip(n, unit, sample.key), dropped="tail"), None
        if broken:
            raise QuarantineError("decode", "corrupt", "bad bits")

    def close(self) -> None:
        """Nothing to end."""


def buckets(count: int) -> ClipConfig:
    return ClipConfig(
        buckets=[BucketConfig(frames=2, height=4, width=width) for width in WIDTHS[:count]]
    )


def decode_stage_of(clip_config: ClipConfig, row_clips: int) -> DecodeStage:
    source = VideoSource(uri=["unused"], max_video_mb=1)
    return DecodeStage(source, clip_config, DecodeConfig(), row_clips=row_clips)


def run(
    monkeypatch: pytest.MonkeyPatch,
    samples: list[Script | Quarantined],
    row_clips: int = 3,
    clip_config: ClipConfig = CLIP,
    forgotten: Forgotten = NOTHING,
) -> tuple[list[BatchRow], Closing]:
    def read(_: SampleReader, unit: WorkUnit, **__: bool) -> Iterator[Sample | Quarantined]:
        for sample in samples:
            if isinstance(sample, Quarantined):
                yield sample
            else:
                key, *script = sample
                yield Sample(key=key, video=bytes(script), video_name=f"{key}.mp4")

    monkeypatch.setattr(decode_stage, "Decoder", FakeDecoder)
    monkeypatch.setattr(SampleReader, "read", read)
    with decode_stage_of(clip_config, row_clips) as stage:
        *rows, closing = list(stage(UNIT, forgotten=forgotten))
    assert isinstance(closing, Closing)
    assert all(isinstance(row, BatchRow) for row in rows)
    return [row for row in rows if isinstance(row, BatchRow)], closing


SCRIPTS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 2), st.booleans(), st.booleans()), max_size=12
)
