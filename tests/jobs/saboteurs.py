"""Workers that misbehave: put in the place of the real ones, they run in the real graph."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.job.collector import TASK_RETRIES
from pipeline.job.workers import DecodeWorker, RayBatch, TokenizeWorker, WorkerSettings
from pipeline.records import Sample, WorkUnit, from_json

MARKS = "marks"
"""Folder beside the output where they note what they did; all processes of a test share it."""

_folder = Path()


def _take_marks(settings: WorkerSettings) -> None:
    global _folder
    _folder = Path(settings.config.output.uri).parent / MARKS


def mark(name: str) -> int:
    """Note that something happened; return how often it has."""
    number = len(list(_folder.glob(f"{name}-*"))) + 1
    (_folder / f"{name}-{number}-{os.getpid()}").touch()
    return number


def shard_of(batch: RayBatch) -> str:
    """Return the shard that a unit, or a decoded row, comes from, such as `shard-000`."""
    from pipeline.stages.messages import BatchRow, read_decoded_row

    if "one_by_one" in batch:
        return from_json(WorkUnit, str(batch["unit"][0])).unit[:9]
    row = read_decoded_row(batch)
    return (row.header if isinstance(row, BatchRow) else row).unit[:9]


def has_marks(name: str) -> bool:
    """Return whether something has happened."""
    return any(_folder.glob(f"{name}-*"))


class MarkingDecode(DecodeWorker):
    """A decode worker that can leave marks."""

    def __init__(self, settings: WorkerSettings, *others: Any) -> None:
        _take_marks(settings)
        super().__init__(settings, *others)


class MarkingTokenize(TokenizeWorker):
    """A tokenize worker that can leave marks."""

    def __init__(self, settings: WorkerSettings, *others: Any) -> None:
        _take_marks(settings)
        super().__init__(settings, *others)


class DiesOnOneUnit(MarkingDecode):
    """Its process ends whenever it is given the first shard; the first time, after a row."""

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        rows = super().__call__(batch)
        if shard_of(batch) == "shard-000":
            if mark("death") == 1:
                yield next(rows)
            os._exit(139)
        yield from rows


def row_of(batch: RayBatch) -> int:
    """Return the list row that a unit of one row is, or that a decoded row comes from."""
    from pipeline.stages.messages import BatchRow, read_decoded_row

    if "one_by_one" in batch:
        rows = from_json(WorkUnit, str(batch["unit"][0])).rows
        return -1 if rows is None else rows.start
    row = read_decoded_row(batch)
    return int(row.header.clips[0].key) if isinstance(row, BatchRow) else -1


class DiesInABundle(MarkingDecode):
    """Its process ends at list row 4 as often as Ray tries a task; then no more."""

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        if row_of(batch) == 4:
            if mark("start") <= 1 + TASK_RETRIES:
                os._exit(139)
            mark("alone")
        yield from super().__call__(batch)


class DiesInAPackedRow(MarkingTokenize):
    """Its first process ends at list row 30."""

    def __call__(self, batch: RayBatch) -> pa.Table:
        if row_of(batch) == 30 and not has_marks("lost"):
            mark("lost")
            os._exit(1)
        return super().__call__(batch)


class NeverEndsOneUnit(DecodeWorker):
    """It never ends the last shard, so the job cannot finish."""

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        while shard_of(batch) == "shard-003":
            time.sleep(1)
        yield from super().__call__(batch)


FAILING = "mpeg1"
"""Key of the video that no decoder can take; the second shard has it."""

_TOKENIZED_WITHIN_S = 60
"""Seconds within which a row is tokenized, on a busy machine."""


class DecodesBadly(MarkingDecode):
    """One shard comes out differently when it is decoded again; another has a video that fails.

    The first attempt at the first shard hands out its first row with another clip's identity, as if
    a sample before it had failed in one attempt and not in the other; then its process dies.

    `FAILING` raises an error that no reason of the quarantine covers, every time.
    """

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        from pipeline.decode import Decoder
        from pipeline.stages.messages import BatchRow, decoded_row, read_decoded_row

        decode = Decoder.decode

        def failing(decoder: Decoder, sample: Sample, unit: str) -> Any:
            if sample.key == FAILING:
                raise KeyError("a bug")
            return decode(decoder, sample, unit)

        Decoder.decode = failing  # type: ignore[method-assign]
        try:
            rows = super().__call__(batch)
            if shard_of(batch) == "shard-000" and mark("attempt") == 1:
                first = read_decoded_row(next(rows))
                assert isinstance(first, BatchRow)
                yield decoded_row(_shifted(first))
                # What is handed out just before a death can get lost with it.
                deadline = time.monotonic() + _TOKENIZED_WITHIN_S
                while not has_marks("tokenized") and time.monotonic() < deadline:
                    time.sleep(0.05)
                os._exit(139)
            yield from rows
        finally:
            Decoder.decode = decode  # type: ignore[method-assign]


def _shifted(row: "BatchRow") -> "BatchRow":  # noqa: F821
    from dataclasses import replace

    from pipeline.stages.messages import BatchRow

    clips = tuple(replace(clip, clip_index=clip.clip_index + 1) for clip in row.header.clips)
    return BatchRow(replace(row.header, clips=clips), row.frames)


class BreaksOnce(MarkingTokenize):
    """Its model breaks in its first process at the third shard, and is sound in the next."""

    def __call__(self, batch: RayBatch) -> pa.Table:
        from pipeline.stages.tokenize import TokenizerBroken

        if shard_of(batch) == "shard-002" and not has_marks("broken"):
            mark("broken")

            def stage(_: object) -> None:
                raise TokenizerBroken("device says no")

            self.stage = stage  # type: ignore[assignment]
        row = super().__call__(batch)
        mark("tokenized")
        return row


class LosesItsDevice(TokenizeWorker):
    """Its first process ends at the second row; the next ones do not start until a mark allows it.

    A mark `start` counts the failed starts. With the mark `never`, none starts.
    """

    def __init__(self, settings: WorkerSettings, *others: Any) -> None:
        _take_marks(settings)
        if has_marks("end") and (mark("start") <= 2 or (_folder / "never").exists()):
            raise RuntimeError("CUDA error: GPU has fallen off the bus")
        super().__init__(settings, *others)
        self._rows = 0

    def __call__(self, batch: RayBatch) -> pa.Table:
        self._rows += 1
        if self._rows == 2 and not has_marks("end"):
            mark("end")
            os._exit(1)
        return super().__call__(batch)
