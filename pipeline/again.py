"""Makes a clip's tokens once more from its source, and its frames from its tokens."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.dataset import Dataset
from pipeline.decode import DecodeLimits, Decoder, clip_rules
from pipeline.decode_back import clip_psnr, decode_cells, eight_bits
from pipeline.encode import ClipEncoder, job_arithmetic
from pipeline.errors import ConfigError, QuarantineError, StoreError
from pipeline.findings import Finding
from pipeline.models import DTYPES
from pipeline.parts import TokenizerColumn
from pipeline.records import Clip, Sample, UnitRecord
from pipeline.revisit import (
    job_config,
    open_models,
    source_clips,
    source_sample,
)
from pipeline.whole import pieces, whole_cells, whole_clip

Row = Mapping[str, Any]
Frames = NDArray[Any] | Sample
"""Of a clip, [T, H, W, 3]; those of a whole video are in its sample, to be decoded."""

_PLACE: Final = (
    "start_s",
    "end_s",
    "source_fps",
    "source_height",
    "source_width",
    "crop",
    "num_frames",
    "padded_frames",
)
"""Columns that say where a clip lies in its source."""


class Again:
    """Holds a dataset's models and a decoder; a context manager, not for several threads at once.

    Args:
        dataset: its head.
        retokenize: whether encoders are needed.
        decode: whether decoders are.

    Raises:
        ConfigError: the models are not to be had, or not those that made the dataset.
    """

    def __init__(self, dataset: Dataset, *, retokenize: bool, decode: bool) -> None:
        config = job_config(dataset)
        self._dataset = dataset
        self._threads = config.tokenize.threads
        self._lists = config.source.lists
        self._whole = config.clip.whole
        self._chunk_frames = config.clip.chunk_frames
        if self._whole and decode:
            raise ConfigError(
                "the clips of this dataset are whole videos, which are not decoded back here;"
                " `verify --retokenize` compares their tokens"
            )
        self._models = open_models(dataset) if decode else {}
        self._encoders: list[ClipEncoder] = []
        cuda = config.tokenize.device != "cpu" and torch.cuda.is_available()
        device = "cuda" if cuda else "cpu"
        models = open_models(dataset) if retokenize else {}
        for spec, column in zip(config.tokenizers, dataset.tokenizers, strict=True):
            if spec.name in models:
                model = models[spec.name].to(device=device, dtype=DTYPES[spec.precision])
                batch = spec.batch if cuda else 1
                self._encoders.append(ClipEncoder(model, column, batch=batch, device=device))
        limits = DecodeLimits(timeout_s=config.decode.timeout_s, memory_mb=config.decode.memory_mb)
        self._decoder = Decoder(clip_rules(dataset.identity["clip"]), limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._decoder.close()

    def clips(
        self, unit: UnitRecord, rows: Sequence[Row]
    ) -> Iterator[tuple[Row, Clip, Frames] | Finding]:
        """Yield rows of one sample with clip and frames, decoded again, or why there are none."""
        left = {row["clip_index"]: row for row in rows}
        why = f"not in {', '.join(unit.sources)}"
        key = rows[0]["key"]
        try:
            for clip, frames in self._clips(unit, key, left):
                yield left.pop(clip.clip_index), clip, frames
        except (QuarantineError, StoreError, FileNotFoundError) as error:
            why = str(error)
        for row in left.values():
            yield Finding("source", row["clip_id"], why)

    def _clips(
        self, unit: UnitRecord, key: str, wanted: Collection[int]
    ) -> Iterator[tuple[Clip, Frames]]:
        if not self._whole:
            yield from source_clips(
                self._decoder, unit.unit, unit.sources, key, wanted, self._lists
            )
            return
        sample = source_sample(unit.unit, unit.sources, key, self._lists)
        found = sample and whole_clip(self._decoder, sample, unit.unit)
        if sample and found:
            yield found[0], sample

    def retokenize(self, row: Row, clip: Clip, frames: Frames) -> Iterator[Finding]:
        """Yield how the clip and its tokens, made again, differ from the row: in any bit."""
        for name in _PLACE:
            now, then = getattr(clip, name), row[name]
            if not np.array_equal(np.float32(now), np.float32(then)):
                yield Finding("source", row["clip_id"], f"{name} {now}, recorded {then}")
        with job_arithmetic(self._threads):
            cells = self._cells(clip, frames)
            for encoder in self._encoders:
                for name in encoder.column.cell_columns:
                    if (values := cells[name][0]).tobytes() != row[name]:
                        text = _difference(values, row[name], encoder.column)
                        yield Finding("tokens", row["clip_id"], f"{name}: {text}")

    def _cells(self, clip: Clip, frames: Frames) -> dict[str, NDArray[Any]]:
        if isinstance(frames, Sample):
            video = pieces(self._decoder, frames, clip.unit)
            return whole_cells(self._encoders, video, clip.num_frames, self._chunk_frames)[0]
        cells: dict[str, NDArray[Any]] = {}
        for encoder in self._encoders:
            cells.update(encoder(frames[np.newaxis])[0])
        return cells

    def psnr(self, row: Row, frames: NDArray[Any]) -> dict[str, float]:
        """Return, by tokenizer, how well its decoded tokens match the source's frames, in dB."""
        original = eight_bits(frames)
        decoded = self.decoded(row, len(frames))
        return {name: clip_psnr(original, clip) for name, clip in decoded.items()}

    def decoded(self, row: Row, num_frames: int) -> dict[str, NDArray[np.uint8]]:
        """Return, by tokenizer, the frames [T, H, W, 3] that a row's tokens stand for."""
        columns = {column.name: column for column in self._dataset.tokenizers}
        return {
            name: decode_cells(model, columns[name], row, num_frames)
            for name, model in self._models.items()
        }


def _difference(now: NDArray[Any], then: bytes, column: TokenizerColumn) -> str:
    stored = np.frombuffer(then, column.stored_dtype)
    if stored.size != now.size:
        return f"{list(now.shape)} now, {stored.size} cells recorded"
    differ = now.ravel() != stored
    text = f"{differ.sum()} of {stored.size} cells differ"
    if column.dtype in ("float16", "float32"):
        largest = np.abs(now.ravel().astype(np.float64) - stored.astype(np.float64)).max()
        text += f", by {largest:.3g} at most"
    return text
