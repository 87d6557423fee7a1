"""Workers that misbehave: put in the place of the real ones, they run in the real graph."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.job.workers import DecodeWorker, RayBatch, TokenizeWorker
from pipeline.records import Sample, WorkUnit, from_json

MARKS = "SABOTEUR_MARKS"
"""Folder where they note what they did; all processes of a test share it."""


def mark(name: str) -> int:
    """Note that something happened; return how often it has."""
    folder = Path(os.environ[MARKS])
    number = len(list(folder.glob(f"{name}-*"))) + 1
    (folder / f"{name}-{number}-{os.getpid()}").touch()
    return number


class DiesOnOneUnit(DecodeWorker):
    """Its process ends whenever it is given the first shard, after the first row."""

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        unit = from_json(WorkUnit, str(batch["unit"][0]))
        rows = super().__call__(batch)
        if unit.unit.startswith("shard-000"):
            mark("death")
            yield next(rows)
            os._exit(139)
        yield from rows


class NeverEndsOneUnit(DecodeWorker):
    """It never ends the last shard, so the job cannot finish."""

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        unit = from_json(WorkUnit, str(batch["unit"][0]))
        while unit.unit.startswith("shard-003"):
            time.sleep(1)
        yield from super().__call__(batch)


class ComesOutDifferently(DecodeWorker):
    """Dies in mid-unit once; what it delivered until then is not what the retry delivers.

    The first attempt at the first shard hands out its first row with another clip's identity: as
    if a sample before it had failed in one attempt and not in the other.
    """

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        from pipeline.stages.messages import BatchRow, decoded_row, read_decoded_row

        unit = from_json(WorkUnit, str(batch["unit"][0]))
        rows = super().__call__(batch)
        if unit.unit.startswith("shard-000") and mark("attempt") == 1:
            first = read_decoded_row(next(rows))
            assert isinstance(first, BatchRow)
            yield decoded_row(_shifted(first))
            time.sleep(3)  # what is handed out just before a death can get lost with it
            os._exit(139)
        yield from rows


def _shifted(row: "BatchRow") -> "BatchRow":  # noqa: F821
    from dataclasses import replace

    from pipeline.stages.messages import BatchRow

    clips = tuple(replace(clip, clip_index=clip.clip_index + 1) for clip in row.header.clips)
    return BatchRow(replace(row.header, clips=clips), row.frames)


class BreaksOnce(TokenizeWorker):
    """Its model is broken in its first process, and sound in the next."""

    def __call__(self, batch: RayBatch) -> pa.Table:
        from pipeline.stages.tokenize import TokenizerBroken

        if not self.broken and not list(Path(os.environ[MARKS]).glob("broken-*")):
            mark("broken")

            def stage(_: object) -> None:
                raise TokenizerBroken("device says no")

            self.stage = stage  # type: ignore[assignment]
        return super().__call__(batch)


class LosesItsDevice(TokenizeWorker):
    """Its first process ends at the second row; the next ones do not start until a mark allows it.

    A mark `start` counts the failed starts. With the mark `never`, none starts.
    """

    def __init__(self, *arguments: Any) -> None:
        folder = Path(os.environ[MARKS])
        if list(folder.glob("end-*")) and (mark("start") <= 2 or (folder / "never").exists()):
            raise RuntimeError("CUDA error: GPU has fallen off the bus")
        super().__init__(*arguments)
        self._rows = 0

    def __call__(self, batch: RayBatch) -> pa.Table:
        self._rows += 1
        if self._rows == 2 and not list(Path(os.environ[MARKS]).glob("end-*")):
            mark("end")
            os._exit(1)
        return super().__call__(batch)


FAILING = "120fps_64x36"
"""Key of the video that no decoder can take."""


class FailsOnOneVideo(DecodeWorker):
    """One video raises an error that no reason of the quarantine covers, every time."""

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        from pipeline.decode import Decoder

        decode = Decoder.decode

        def failing(decoder: Decoder, sample: Sample, unit: str) -> Any:
            if sample.key == FAILING:
                raise KeyError("a bug")
            return decode(decoder, sample, unit)

        Decoder.decode = failing  # type: ignore[method-assign]
        try:
            yield from super().__call__(batch)
        finally:
            Decoder.decode = decode  # type: ignore[method-assign]
