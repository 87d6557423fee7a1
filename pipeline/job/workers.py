"""What runs in the graph's processes: the stages behind the calls that Ray makes.

No stage lets an exception out. An exception would cost the row and keep its reason from the driver;
so it becomes an `Aborted` row, which gives the unit up and says why. Arguments of these classes are
small and plain, since large ones would live in the driver's object store and die with it.
"""

import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.job import ListConfig, TokenizerSpec
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.errors import PipelineError
from pipeline.job.metrics import CLIPS, DECODE, PSNR_CLIPS, PSNR_DB, ROWS, TOKENIZE, Recorder
from pipeline.job.worker_clock import BUSY, WAITING, WorkerClock
from pipeline.records import WorkUnit, from_json
from pipeline.stages.commit import commit_unit
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import (
    Aborted,
    BatchRow,
    Closing,
    PayloadHeader,
    decoded_row,
    payload_row,
    read_decoded_row,
    read_payload,
)
from pipeline.storage.store import Store

RayBatch = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class DecodeArguments:
    """Of `DecodeStage`, as sent to its actors."""

    rules: Sequence[ClipRule]
    limits: DecodeLimits
    row_clips: int
    max_video_mb: float
    storage_options: Mapping[str, Any]
    lists: ListConfig
    whole: bool


@dataclass(frozen=True, kw_only=True)
class TokenizeArguments:
    """Of `TokenizeStage`, as sent to its actors; weights travel as paths."""

    specs: Sequence[TokenizerSpec]
    columns: Sequence[TokenizerColumn]
    weights: Sequence[str]
    """`pipeline.tokenizers.models.weights_digest` of each."""
    device: str
    threads: int
    whole: tuple[Sequence[ClipRule], DecodeLimits] | None = None
    """How whole videos are decoded; None where the rows are of frames."""
    decode_back_one_in: int | None = None


@dataclass(frozen=True, kw_only=True)
class CommitArguments:
    """Of `commit_unit`, as sent to its tasks."""

    store: Store
    columns: Sequence[TokenizerColumn]
    levels: Mapping[str, Sequence[int]]
    row_group_bytes: int
    max_part_bytes: int


class DecodeWorker:
    """A generator over the rows of one unit, for `map_batches`."""

    def __init__(self, arguments: DecodeArguments, recorder: Recorder) -> None:
        self._recorder = recorder
        self._stage = DecodeStage(
            arguments.rules,
            arguments.limits,
            row_clips=arguments.row_clips,
            max_video_mb=arguments.max_video_mb,
            storage_options=arguments.storage_options,
            lists=arguments.lists,
            whole=arguments.whole,
        )
        self._clock = WorkerClock(DECODE, recorder)

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        """Yield the decoded rows of the unit whose JSON stands in `unit`."""
        unit = from_json(WorkUnit, str(batch["unit"][0]))
        with self._clock.call():
            try:
                for record in self._stage(unit):
                    if isinstance(record, BatchRow):
                        self._recorder.add(CLIPS, len(record.header.clips), stage=DECODE)
                        self._recorder.add(ROWS, 1, stage=DECODE)
                    with self._clock.handing_over():
                        yield decoded_row(record)
            except Exception as error:
                yield decoded_row(Aborted(unit=unit.unit, reason=f"decode: {_say(error)}"))


class TokenizeWorker:
    """A map from one decoded row to one payload row, for `map_batches`."""

    def __init__(self, arguments: TokenizeArguments, recorder: Recorder) -> None:
        from pipeline.stages.tokenize import TokenizeStage
        from pipeline.tokenizers.arithmetic import set_arithmetic
        from pipeline.tokenizers.models import open_encoder

        set_arithmetic(arguments.threads)
        encoders = [
            open_encoder(spec, column, weights=weights, device=arguments.device)
            for spec, column, weights in zip(
                arguments.specs, arguments.columns, arguments.weights, strict=True
            )
        ]
        if arguments.whole is None:
            self._stage = TokenizeStage(encoders, decode_back_one_in=arguments.decode_back_one_in)
        else:
            rules, limits = arguments.whole
            chunk_frames = rules[0].frames
            self._stage = TokenizeStage(encoders, Decoder(rules, limits), chunk_frames)
        self._broken = False
        self._recorder = recorder
        self._clock = WorkerClock(TOKENIZE, recorder)

    def __call__(self, batch: RayBatch) -> pa.Table:
        """Return the payload row of a decoded row."""
        with self._clock.call():
            return self._payload_row(batch)

    def _payload_row(self, batch: RayBatch) -> pa.Table:
        from pipeline.stages.tokenize import TokenizerBroken

        record = read_decoded_row(batch)
        if not isinstance(record, BatchRow):
            return payload_row(record)
        if self._broken:
            # A process whose device or model failed would fail every row that it is given, and
            # faster than its healthy neighbours work. Ray gives the row to its successor.
            os._exit(1)
        try:
            payload = self._stage(record)
        except Exception as error:
            self._broken = isinstance(error, TokenizerBroken)
            unit = record.header.unit
            return payload_row(Aborted(unit=unit, reason=f"tokenize: {_say(error)}"))
        clips = len(payload.header.clip_ids) - len(payload.header.quarantined)
        self._recorder.add(CLIPS, clips, stage=TOKENIZE)
        self._recorder.add(ROWS, 1, stage=TOKENIZE)
        for name, sums in payload.header.psnr.items():
            self._recorder.add(PSNR_CLIPS, sums.clips, tokenizer=name)
            self._recorder.add(PSNR_DB, sums.millidecibels / 1000, tokenizer=name)
        seconds = self._clock.take()
        return payload_row(
            payload, waiting_s=seconds.get(WAITING, 0.0), busy_s=seconds.get(BUSY, 0.0)
        )


def commit_blocks(
    unit: WorkUnit, blocks: Iterator[pa.Table], arguments: CommitArguments
) -> UnitRecord | str:
    """Commit a unit from its payload blocks; return its record, or why there is none.

    Args:
        unit: what was planned.
        blocks: the closing row first, then the batches in order; taken one after another.
        arguments: where to and how.
    """

    def payloads() -> Iterator[tuple[PayloadHeader, bytes]]:
        for block in blocks:
            payload = read_payload(block)
            yield payload.header, payload.rows

    try:
        closing = from_json(Closing, next(blocks)["header"][0].as_py())
        return commit_unit(
            unit,
            closing,
            payloads(),
            store=arguments.store,
            schema=clip_schema(arguments.columns),
            levels=arguments.levels,
            row_group_bytes=arguments.row_group_bytes,
            max_part_bytes=arguments.max_part_bytes,
        )
    except Exception as error:
        return f"commit: {_say(error)}"


def _say(error: BaseException) -> str:
    """Return an error as a person wants it: ours by their text, others with where they arose."""
    if isinstance(error, PipelineError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in place)
    return f"{type(error).__name__}: {str(error)[:500]}{where}"
