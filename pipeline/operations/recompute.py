"""Makes a clip's tokens once more from its source, and its frames from its tokens."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.job import ListConfig
from pipeline.dataset.metadata import Dataset
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.schema import TokenizerColumn
from pipeline.decode import DecodeLimits, Decoder, clip_rules
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.findings import Finding
from pipeline.quarantine import QuarantineError
from pipeline.records import Clip, ListRows, LooseFile, Sample, WorkUnit, parse_range
from pipeline.sources.media_types import is_tar
from pipeline.sources.reader import read_samples
from pipeline.stages.whole_video import pieces, whole_cells, whole_clip
from pipeline.tokenizers.arithmetic import job_arithmetic
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.models import DTYPES, job_config, open_models
from pipeline.tokenizers.reconstruction import clip_psnr, decode_cells, eight_bits

_ANY_VIDEO_MB: Final = 1e6
"""What became tokens was within the job's limit, whatever that was."""


def source_clips(
    decoder: Decoder,
    unit: str,
    sources: Sequence[str],
    key: str,
    wanted: Collection[int],
    lists: ListConfig,
) -> Iterator[tuple[Clip, NDArray[Any]]]:
    """Yield clips of one sample, decoded from its source again.

    Args:
        decoder: with the dataset's `clip_rules`.
        unit: of the rows.
        sources: URIs of the unit's record.
        key: of the rows.
        wanted: clip indices.
        lists: how the dataset's lists are read.

    Yields:
        A clip and its frames `[T, H, W, 3]`; none for an index that the source does not hold.

    Raises:
        QuarantineError: the video is broken now.
        StoreError: the source cannot be read.
    """
    left = set(wanted)
    sample = source_sample(unit, sources, key, lists)
    for clip, frames in decoder.decode(sample, unit) if sample is not None else ():
        if not left:
            break  # not at once after the last: a video that ends there spares the child
        if clip.clip_index in left and frames is not None:
            left.remove(clip.clip_index)
            yield clip, frames


def source_sample(unit: str, sources: Sequence[str], key: str, lists: ListConfig) -> Sample | None:
    """Return the sample of a key from its source, None if it is not there; as `source_clips`."""
    samples = read_samples(
        _work_unit(unit, sources, key), max_video_mb=_ANY_VIDEO_MB, lists=lists, images=True
    )
    for sample in samples:
        if isinstance(sample, Sample) and sample.key == key:
            return sample
    return None


def _work_unit(unit: str, sources: Sequence[str], key: str) -> WorkUnit:
    """Return the unit's tar or rows, or of its loose files the one that has the key."""
    if is_tar(sources[0]):
        return WorkUnit(unit=unit, tar_uri=sources[0])
    if (rows := parse_range(sources[0])) is not None:
        uri, start, stop = rows
        return WorkUnit(unit=unit, rows=ListRows(uri=uri, start=start, stop=stop))
    for uri in sources:
        folder = uri.removesuffix(key)
        # A key may end as another does; but all keys of a unit are below one folder.
        if folder.endswith("/") and all(other.startswith(folder) for other in sources):
            return WorkUnit(unit=unit, files=(LooseFile(key=key, uri=uri),))
    return WorkUnit(unit=unit)


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
