"""Tokenize one batch row: frames in, the finished rows of its clips out, as Arrow bytes.

A batch that fails is retried clip by clip, in the same fixed shape. A clip that fails alone
goes to the quarantine. A black clip is tried first: if that also fails, the model or the device is
broken, and no clip is quarantined.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.schema import clip_schema, packed_schema
from pipeline.dataset.side_columns import SideColumn
from pipeline.dataset.statistics import PsnrSums, merged
from pipeline.decode import Decoder
from pipeline.errors import PipelineError, one_line
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Clip
from pipeline.stages.messages import (
    BatchRow,
    Payload,
    PayloadHeader,
    decode_rows,
    encode_rows,
)
from pipeline.stages.whole_video import pieces, sample_of, whole_cells
from pipeline.tokenizers.encoder import Cells, ClipEncoder, Finite
from pipeline.tokenizers.sound_encoders import SoundEncoder

_log = logging.getLogger(__name__)


def is_drawn(clip_id: str, one_in: int) -> bool:
    """Return whether a clip is decoded back; about one in `one_in` is."""
    digest = hashlib.sha256(f"decode back {clip_id}".encode()).digest()
    return int.from_bytes(digest[:8]) % one_in == 0


def measure_psnr(
    encoders: Sequence[ClipEncoder], rows: pa.RecordBatch, frames: Sequence[NDArray[Any]]
) -> dict[str, PsnrSums]:
    """Return by tokenizer how well the frames of clips come back from their cells.

    A clip that cannot be decoded counts as failed and keeps its tokens. If the device is broken,
    the next batch shows it.

    Args:
        encoders: one per tokenizer.
        rows: the clips' rows, as they are stored.
        frames: of each clip [T, H, W, 3] in [0, 255].
    """
    total: dict[str, PsnrSums] = {}
    for row, clip in zip(rows.drop_columns(["meta"]).to_pylist(), frames, strict=True):
        for encoder in encoders:
            name, clip_id, psnr = encoder.column.name, row["clip_id"], None
            try:
                psnr = encoder.psnr(row, clip)
            except Exception as error:
                _log.warning(
                    "%s: %s: the clip cannot be decoded back: %s", clip_id, name, one_line(error)
                )
                if isinstance(error, torch.OutOfMemoryError):
                    torch.cuda.empty_cache()
            total = merged(total, {name: PsnrSums.of(clip_id, psnr)})
    return total


Encoded = tuple[Cells, dict[str, Finite]]
"""Cells of all columns, and for each tokenizer which clips are finite."""

Outcome = tuple[Cells, dict[str, Finite], dict[int, str]]
"""The same, and the errors of the clips that failed, by their place in the row."""


_NO_MEMORY: Final = ("out of memory", "allocate memory", "ALLOC_FAILED")
"""Texts of torch's other errors for memory: of the device, of the host, of a library of CUDA."""


class TokenizerBroken(RuntimeError):
    """A tokenizer fails on any clip: its process must end, and no clip is to blame."""


class _WorkClock:
    """Adds up the seconds of work of calls that overlap: a moment counts for one of them.

    A device works on one batch after another. So a call's share begins when the call before it
    ends, or with the call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_end = 0.0

    @contextmanager
    def counted(self, stage: str, timings: dict[str, float]) -> Iterator[None]:
        """Add the seconds of a block of work to a stage of `timings`, also if it raises."""
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                now = time.monotonic()
                seconds = now - max(began, self._last_end)
                self._last_end = now
            timings[stage] = timings.get(stage, 0.0) + seconds


class TokenizeStage:
    """Holds the tokenizers of a dataset. Several threads can call it, each with its own row.

    Args:
        encoders: one per tokenizer, in the order of the schema's columns.
        videos: decoders of whole videos, if the rows carry those; they belong to the stage. A call
            takes one of them, and waits while all are taken.
        chunk_frames: frames of a whole video that the networks get at a time.
        decode_back_one_in: one clip in N is decoded back; None decodes none. Rows of whole videos
            need None.
        side: side columns. The rows bring them with them, except those of `sounds`.
        sounds: encoders of sound by column.
    """

    def __init__(
        self,
        encoders: Sequence[ClipEncoder],
        videos: Sequence[Decoder] = (),
        chunk_frames: int = 0,
        decode_back_one_in: int | None = None,
        side: Sequence[SideColumn] = (),
        sounds: Mapping[str, SoundEncoder] | None = None,
    ) -> None:
        self._sounds = [(c, sounds[c.name]) for c in side if c.name in sounds] if sounds else []
        self._encoders = list(encoders)
        self._one_in = decode_back_one_in
        self._videos = tuple(videos)
        self._free: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in videos:
            self._free.put(decoder)
        self._sound_lock = threading.Lock()
        self._work = _WorkClock()
        self._chunk_frames = chunk_frames
        schema = clip_schema([encoder.column for encoder in encoders], side)
        self._schema: pa.Schema = packed_schema(schema)

    def close(self) -> None:
        """End the decoders of whole videos."""
        for decoder in self._videos:
            decoder.close()

    def prove(self, frames: int, height: int, width: int) -> None:
        """Tokenize a black clip; an error shows that the models or their device are broken."""
        self._encode(np.zeros((1, frames, height, width, 3), np.uint8), {}, "a black clip")

    def __call__(self, batch: BatchRow) -> Payload:
        """Tokenize the clips of one row; each becomes a row or a quarantine record.

        Raises:
            TokenizerBroken: a tokenizer also fails on a black clip.
            MemoryError, RuntimeError: there is no memory for a single clip; no clip is to blame.
            QuarantineError: a whole video that the decode stage could decode is broken now.
            PipelineError: a whole video cannot be decoded now: of the disk, or of the process.
        """
        header, frames = batch.header, batch.frames
        bucket = header.bucket
        timings: dict[str, float] = {}
        failed: dict[int, str] = {}
        if bucket.frames == 0:
            cells, finite, failed = self._whole(batch, timings)
        else:
            shape = (len(header.clips), bucket.frames, bucket.height, bucket.width, 3)
            where = f"{header.unit}: row {header.seq}"
            assert frames.shape == shape, f"{where}: frames {frames.shape}, {shape}"
            try:
                cells, finite = self._encode(frames, timings, where)
            except Exception as error:
                _log.warning(
                    "%s: the batch failed and is retried clip by clip: %s", where, one_line(error)
                )
                cells, finite, failed = self._one_by_one(frames, error, timings, where)
        kept: list[int] = []
        quarantined: list[Quarantined] = []
        for n, clip in enumerate(header.clips):
            if n in failed:
                quarantined.append(_quarantined(clip, "tokenizer_error", failed[n], attempts=2))
            elif names := [name for name, ok in finite.items() if not ok[n]]:
                detail = f"{', '.join(names)}: NaN or infinity among the latents"
                quarantined.append(_quarantined(clip, "non_finite", detail))
            else:
                kept.append(n)
        rows = clip_rows(
            [header.clips[n] for n in kept],
            {name: column[kept] for name, column in cells.items()},
            self._schema,
            self._side(batch, kept, timings) if batch.side else None,
        )
        psnr = self._decode_back(rows, [frames[n] for n in kept], timings)
        payload = PayloadHeader(
            unit=header.unit,
            seq=header.seq,
            digest=header.digest(),
            bucket=bucket,
            clip_ids=tuple(clip.clip_id for clip in header.clips),
            quarantined=tuple(quarantined),
            timings={stage: round(seconds, 6) for stage, seconds in timings.items()},
            psnr=psnr,
        )
        return Payload(payload, encode_rows(rows))

    def _side(self, batch: BatchRow, kept: list[int], timings: dict[str, float]) -> pa.RecordBatch:
        """Return the side columns of the clips that are kept, with the cells of their sound."""
        side = decode_rows(batch.side).to_batches()[0].take(kept)
        for column, encoder in self._sounds:
            with self._sound_lock, self._work.counted(f"tokenize {column.name}", timings):
                cells = [encoder.cells(stream.as_py(), column) for stream in side["audio"]]
            side = side.append_column(column.name, pa.array(cells, pa.binary()))
        return side

    def _encode(self, frames: NDArray[Any], timings: dict[str, float], where: str) -> Encoded:
        """Return the cells of all columns, and for each tokenizer which clips are finite.

        `where` names the clips in the log.
        """
        cells: Cells = {}
        finite = {}
        for encoder in self._encoders:
            name = encoder.column.name
            with self._work.counted(f"tokenize {name}", timings):
                made, finite[name] = encoder(frames, where)
            cells.update(made)
        return cells, finite

    def _decode_back(
        self, rows: pa.RecordBatch, frames: Sequence[NDArray[Any]], timings: dict[str, float]
    ) -> dict[str, PsnrSums]:
        """Return by tokenizer how well those of the clips that are drawn come back."""
        if self._one_in is None:
            return {}
        ids = rows["clip_id"].to_pylist()
        drawn = [n for n, clip_id in enumerate(ids) if is_drawn(clip_id, self._one_in)]
        if not drawn:
            return {}
        with self._work.counted("decode back", timings):
            return measure_psnr(self._encoders, rows.take(drawn), [frames[n] for n in drawn])

    def _whole(self, batch: BatchRow, timings: dict[str, float]) -> Outcome:
        """Encode the video of a row; return what `_one_by_one` returns for clips."""
        [clip] = batch.header.clips
        bucket, chunk = batch.header.bucket, self._chunk_frames
        decoder = self._free.get()
        try:
            # Closed before another call takes the decoder: an error would keep it open.
            video = pieces(decoder, sample_of(batch), clip.unit)
            with self._work.counted("tokenize whole", timings), closing(video):
                return *whole_cells(self._encoders, video, clip.num_frames, chunk), {}
        except PipelineError:
            raise  # of the decoder, or of the disk
        except Exception as error:
            black = np.zeros((chunk, bucket.height, bucket.width, 3), np.uint8)
            try:
                place_holder = whole_cells(self._encoders, iter([black]), chunk, chunk)
            except Exception as other:
                raise _broken(error, other) from error
            if _lacks_memory(error):
                raise
            return *place_holder, {0: one_line(error)}
        finally:
            self._free.put(decoder)

    def _one_by_one(
        self, frames: NDArray[Any], cause: Exception, timings: dict[str, float], where: str
    ) -> Outcome:
        """Encode each clip alone; return the results, and the errors of the clips that failed.

        A failed clip gets the cells of the black clip, which only hold its place.
        """
        black = np.zeros_like(frames[:1])
        try:
            place_holder = self._encode(black, timings, where)
        except Exception as error:
            raise _broken(cause, error) from cause
        results = []
        failed = {}
        for n in range(len(frames)):
            try:
                results.append(self._encode(frames[n : n + 1], timings, where))
            except Exception as error:
                if _lacks_memory(error):
                    raise
                failed[n] = one_line(error)
                results.append(place_holder)
        cells = {name: np.concatenate([r[0][name] for r in results]) for name in place_holder[0]}
        finite = {name: np.concatenate([r[1][name] for r in results]) for name in place_holder[1]}
        return cells, finite, failed


def _lacks_memory(error: Exception) -> bool:
    """Return whether memory ran out, of which all clips of a bucket need the same."""
    kinds = torch.OutOfMemoryError, MemoryError
    return isinstance(error, kinds) or any(text in str(error) for text in _NO_MEMORY)


def _broken(error: Exception, on_black: Exception) -> TokenizerBroken:
    return TokenizerBroken(f"{one_line(error)}; and on a black clip: {one_line(on_black)}")


def _quarantined(clip: Clip, reason: str, detail: str, *, attempts: int = 1) -> Quarantined:
    error = QuarantineError("tokenize", reason, detail, attempts=attempts)
    record = Quarantined.of(error, unit=clip.unit, key=clip.key, clip_index=clip.clip_index)
    _log.warning("quarantined %s", record)
    return record
