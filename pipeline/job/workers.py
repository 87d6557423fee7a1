"""What runs in Ray's worker processes: the three stages behind the calls that Ray makes.

No worker raises an exception to Ray, which would drop the row and hide the reason from the driver.
An error becomes an `Aborted` row instead, which gives the unit up and carries the reason.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.embed import EmbedConfig
from pipeline.config.job import JobConfig
from pipeline.dataset.log.forgotten import Forgotten, read_forgotten
from pipeline.dataset.metadata import Digest
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.dataset.side_columns import SideColumn
from pipeline.decode.child.fork_server import fork_server
from pipeline.errors import one_line
from pipeline.job.metrics.metrics import (
    CLIPS,
    DECODE,
    PSNR_CLIPS,
    PSNR_DB,
    ROWS,
    TOKENIZE,
    Recorder,
)
from pipeline.job.metrics.worker_clock import BUSY, WAITING, WorkerClock
from pipeline.job.nodes import this_node
from pipeline.job.shared_output import sees_once
from pipeline.logs import configure_logging
from pipeline.records import WorkUnit, from_json
from pipeline.stages.commit import commit_unit
from pipeline.stages.decode import DecodeStage, open_decoder
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
from pipeline.stages.rows import RowsStage
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from pipeline.stages.embed import EmbedStage
    from pipeline.stages.tokenize import TokenizeStage
    from pipeline.tokenizers.sound_encoders import SoundEncoder

RayBatch = dict[str, NDArray[Any]]

_MIB = 1 << 20

GPU_CALLS: Final = 2
"""Number of rows that a tokenizer on a GPU works on at once: it packs one while the GPU computes
the next."""

_MAX_PAUSE_S: Final = 8.0
"""Maximum seconds that a decode actor waits after units that it gave up."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The job's settings, and what the driver derives from them, as sent to every worker.

    It must stay small: Ray keeps large arguments in the driver's object store, where they are lost
    when the driver dies.
    """

    config: JobConfig | EmbedConfig
    """Settings of the job, with absolute paths and without most of its source URIs."""
    columns: Sequence[TokenizerColumn]
    """Columns of the tokenizers, in the order of `config.tokenizers`."""
    digests: Sequence[Digest]
    """Digest of each tokenizer on the driver."""
    levels: Mapping[str, Sequence[int]]
    """Levels of the channels of each FSQ tokenizer, by its name."""
    device: str
    """Device of the tokenizers: `cpu` or `cuda`."""
    side: Sequence[SideColumn] = ()
    """Side columns of the dataset."""
    proof: str = ""
    """Path of a file that the driver wrote into the output. A node that does not see it commits
    nothing. Empty: every node commits."""
    forgets: Sequence[int] = ()
    """Numbers of the log records that hold what decoding leaves out because it is forgotten."""
    log_level: int = logging.INFO
    """Level from which workers log."""


@dataclass(frozen=True, slots=True)
class OutputUnseen:
    """A node does not see the output of the driver, so it must not commit."""

    node: str


def _sound_encoders(settings: WorkerSettings) -> "dict[str, SoundEncoder]":
    """Return the encoders of sound on the device of the tokenizers, by column."""
    config = settings.config
    if isinstance(config, EmbedConfig) or config.audio is None or not config.audio.encoders:
        return {}
    from pipeline.tokenizers.sound_encoders import same_sound_encoder

    columns = {column.name: column for column in settings.side}
    return {
        spec.name: same_sound_encoder(spec, columns[spec.name], settings.device)
        for spec in config.audio.encoders
    }


class DecodeWorker:
    """A generator over the rows of one unit, for `map_batches`."""

    def __init__(self, settings: WorkerSettings, recorder: Recorder) -> None:
        configure_logging(settings.log_level)
        config = settings.config
        self._recorder = recorder
        self._settings = settings
        self._forgotten: Forgotten | None = None
        self._stage: DecodeStage | RowsStage
        if isinstance(config, EmbedConfig):
            self._stage = RowsStage(config.parent)
        else:
            fork_server()  # it imports torch while this process waits for its first unit
            self._stage = DecodeStage(
                config.source,
                config.clip,
                config.decode,
                row_clips=config.row_clips,
                audio=config.audio,
                tracks=config.tracks,
            )
        self._clock = WorkerClock(DECODE, recorder)
        self._given_up = 0
        """Units that were given up in a row."""

    def close(self) -> None:
        """End the decoder's child process."""
        self._stage.close()

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        """Yield the decoded rows of the unit that `unit` holds as JSON.

        `one_by_one` says whether a sample that fails is given up alone.
        """
        unit = from_json(WorkUnit, str(batch["unit"][0]))
        if self._given_up > 1:
            # A node that cannot read or decode is faster than all others, and would take all units.
            time.sleep(min(_MAX_PAUSE_S, 2.0 ** (self._given_up - 2)))
        with self._clock.call():
            try:
                records = self._stage(
                    unit, one_by_one=bool(batch["one_by_one"][0]), forgotten=self._forgets()
                )
                for record in records:
                    if isinstance(record, Closing):
                        record = replace(record, node=this_node())
                        self._given_up = 0
                    if isinstance(record, BatchRow):
                        self._recorder.add(CLIPS, len(record.header.clips), stage=DECODE)
                        self._recorder.add(ROWS, 1, stage=DECODE)
                    with self._clock.handing_over():
                        yield decoded_row(record)
            except Exception as error:
                self._given_up += 1
                yield decoded_row(_aborted(unit.unit, DECODE, error))

    def _forgets(self) -> Forgotten:
        """Return what is left out; read once from the output."""
        if self._forgotten is None:
            output = self._settings.config.output
            store = Store(output.uri, output.storage_options)
            self._forgotten = read_forgotten(store, self._settings.forgets)
        return self._forgotten


def _embed_stage(config: EmbedConfig, settings: WorkerSettings) -> "EmbedStage":
    from pipeline.stages.embed import EmbedStage
    from pipeline.tokenizers.text_encoder import load_encoder

    encoders = [
        load_encoder(spec, column, weights=digest.weights, device=settings.device)
        for spec, column, digest in zip(
            config.embedders, settings.columns, settings.digests, strict=True
        )
    ]
    stage = EmbedStage(encoders)
    stage.prove()
    return stage


class TokenizeWorker:
    """A map from one decoded row to one payload row, for `map_batches`.

    On a GPU its calls overlap.

    Attributes:
        stage: the stage that tokenizes or embeds.
        broken: whether the stage failed on a black clip; the process then ends at its next row.
    """

    def __init__(self, settings: WorkerSettings, recorder: Recorder) -> None:
        from pipeline.tokenizers.arithmetic import set_arithmetic

        configure_logging(settings.log_level)
        set_arithmetic(settings.config.tokenize.threads)
        self.stage = self._open_stage(settings)
        self.broken = False
        self._recorder = recorder
        self._clock = WorkerClock(TOKENIZE, recorder)

    def _open_stage(self, settings: WorkerSettings) -> "TokenizeStage | EmbedStage":
        """Return the stage after it was tried.

        A device can load weights and fail in its first computation. Its error then belongs to the
        start of this actor, and no unit pays for it.
        """
        from pipeline.stages.tokenize import TokenizeStage
        from pipeline.tokenizers.models import open_encoders

        config = settings.config
        if isinstance(config, EmbedConfig):
            return _embed_stage(config, settings)
        stage = TokenizeStage(
            open_encoders(
                config.tokenizers,
                settings.columns,
                settings.digests,
                settings.device,
                config.tokenize.tile,
            ),
            videos=[open_decoder(config.clip.identity(), config.decode) for _ in range(GPU_CALLS)]
            if config.clip.whole
            else (),
            chunk_frames=config.clip.chunk_frames,
            decode_back_one_in=config.tokenize.decode_back_one_in,
            side=settings.side,
            sounds=_sound_encoders(settings),
        )
        clip = config.clip.buckets[0] if config.clip.buckets else config.clip
        if clip.frames and clip.height and clip.width:
            stage.prove(clip.frames, clip.height, clip.width)
        return stage

    def __call__(self, batch: RayBatch) -> pa.Table:
        """Return the payload row of a decoded row."""
        with self._clock.call():
            return self._payload_row(batch)

    def _payload_row(self, batch: RayBatch) -> pa.Table:
        from pipeline.stages.tokenize import TokenizerBroken

        record = read_decoded_row(batch)
        if not isinstance(record, BatchRow):
            return payload_row(record)
        if self.broken:
            # A broken device or model fails every row, and faster than healthy processes work.
            # After the exit Ray gives the row to a new process.
            _log.warning(
                "%s: the tokenizer also fails on a black clip; this process ends and is replaced",
                record.header.unit,
            )
            os._exit(1)
        try:
            payload = self.stage(record)
        except Exception as error:
            self.broken |= isinstance(error, TokenizerBroken)
            return payload_row(_aborted(record.header.unit, TOKENIZE, error))
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
    unit: WorkUnit, blocks: Iterator[pa.Table], settings: WorkerSettings
) -> UnitRecord | Aborted | OutputUnseen:
    """Commit a unit from its payload blocks; return its record, or why it has none.

    Args:
        unit: what was planned.
        blocks: the closing row first, then the batches in order; read one at a time.
        settings: where the parts are written, and how.
    """

    def payloads() -> Iterator[tuple[PayloadHeader, bytes]]:
        for block in blocks:
            payload = read_payload(block)
            yield payload.header, payload.rows

    configure_logging(settings.log_level)
    output, commit = settings.config.output, settings.config.commit
    store = Store(output.uri, output.storage_options)
    try:
        if settings.proof and not sees_once(store, settings.proof):
            return OutputUnseen(this_node())
        closing = from_json(Closing, next(blocks)["header"][0].as_py())
        return commit_unit(
            unit,
            closing,
            payloads(),
            store=store,
            schema=clip_schema(settings.columns, settings.side),
            levels=settings.levels,
            row_group_bytes=commit.row_group_mb * _MIB,
            max_part_bytes=commit.part_mb * _MIB,
        )
    except Exception as error:
        return _aborted(unit.unit, "commit", error)


def _aborted(unit: str, stage: str, error: Exception) -> Aborted:
    """Log with its traceback why a stage gives a unit up; return the record for the driver."""
    _log.warning("%s: the stage %s gives up this unit", unit, stage, exc_info=error)
    return Aborted(unit=unit, reason=f"{stage}: {one_line(error)}", node=this_node())
