"""Makes a clip's tokens once more from its source, and its frames from its tokens."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.dataset import Dataset
from pipeline.decode import DecodeLimits, Decoder, clip_rules
from pipeline.encode import ClipEncoder
from pipeline.errors import QuarantineError, StoreError
from pipeline.findings import Finding
from pipeline.models import DTYPES
from pipeline.parts import TokenizerColumn
from pipeline.records import Clip, UnitRecord
from pipeline.revisit import (
    clip_psnr,
    decode_cells,
    job_config,
    open_models,
    source_clips,
)

Row = Mapping[str, Any]

_PLACE: Final = (
    "start_s",
    "end_s",
    "source_fps",
    "source_height",
    "source_width",
    "crop",
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
    ) -> Iterator[tuple[Row, Clip, NDArray[Any]] | Finding]:
        """Yield rows of one sample with clip and frames, decoded again, or why there are none."""
        left = {row["clip_index"]: row for row in rows}
        why = f"not in {', '.join(unit.sources)}"
        key = rows[0]["key"]
        try:
            for clip, frames in source_clips(
                self._decoder, unit.unit, unit.sources, key, left, self._lists
            ):
                yield left.pop(clip.clip_index), clip, frames
        except (QuarantineError, StoreError, FileNotFoundError) as error:
            why = str(error)
        for row in left.values():
            yield Finding("source", row["clip_id"], why)

    def retokenize(self, row: Row, clip: Clip, frames: NDArray[Any]) -> Iterator[Finding]:
        """Yield how the clip and its tokens, made again, differ from the row: in any bit."""
        for name in _PLACE:
            now, then = getattr(clip, name), row[name]
            if not np.array_equal(np.float32(now), np.float32(then)):
                yield Finding("source", row["clip_id"], f"{name} {now}, recorded {then}")
        with _arithmetic(self._threads):
            for encoder in self._encoders:
                cells, _ = encoder(frames[np.newaxis])
                for name, values in cells.items():
                    if values[0].tobytes() != row[name]:
                        text = _difference(values[0], row[name], encoder.column)
                        yield Finding("tokens", row["clip_id"], f"{name}: {text}")

    def psnr(self, row: Row, frames: NDArray[Any]) -> dict[str, float]:
        """Return, by tokenizer, how well its decoded tokens match the source's frames, in dB."""
        original = frames.round().astype(np.uint8)
        columns = {column.name: column for column in self._dataset.tokenizers}
        return {
            name: clip_psnr(original, decode_cells(model, columns[name], row, len(frames)))
            for name, model in self._models.items()
        }


@contextmanager
def _arithmetic(threads: int) -> Iterator[None]:
    """Compute as the job's processes do: so many threads, and float32 that means float32."""
    before = torch.get_num_threads()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
