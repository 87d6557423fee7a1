"""Takes rows back to their source: decodes the clip again, encodes it again, decodes its tokens."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.source import VideoSource
from pipeline.dataset.cells import row_cells
from pipeline.dataset.metadata import Dataset
from pipeline.dataset.row_sampling import DrawnRow, read_row
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError, DamagedFile, StoreError, one_line
from pipeline.operations.findings import Finding
from pipeline.quarantine import QuarantineError
from pipeline.records import Clip, ListRows, LooseFile, Sample, WorkUnit, parse_range
from pipeline.sources.media_types import is_tar
from pipeline.sources.reader import SampleReader
from pipeline.stages.decode import open_decoder
from pipeline.stages.whole_video import pieces, whole_cells, whole_clip
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import job_arithmetic
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.inputs import input_frames
from pipeline.tokenizers.models import encoder_of, job_config, open_models
from pipeline.tokenizers.reconstruction import (
    as_bytes,
    clip_psnr,
    decode_cells,
    eight_bits,
)

_ANY_VIDEO_MB: Final = 1_000_000
"""Maximum size of a video: none, because the job's own limit admitted it."""


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
"""Columns that say which part of its source a clip is."""


Row = Mapping[str, Any]
"""Columns of one row of a part."""


@dataclass(frozen=True, slots=True)
class SourceClip:
    """A row, and its clip decoded from the source again."""

    index: int
    """Index of the row among those that were asked for."""
    row: Row
    clip: Clip
    frames: NDArray[Any] | Sample
    """Frames [T, H, W, 3] in [0, 255]; of a whole video the sample, which is decoded in pieces."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One clip among those that are shown side by side."""

    label: str
    """Name of the tokenizer, or `original` with what tokenizers get of it, such as `1/2`."""
    frames: NDArray[np.uint8]
    """Frames [T, h, w, 3]. A frame that a tokenizer does not get is shown as the one before it."""
    psnr_db: float | None = None
    """PSNR in dB against the original that the tokenizer gets; None for an original."""

    def __str__(self) -> str:
        return self.label if self.psnr_db is None else f"{self.label} {self.psnr_db:.2f} dB"


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A clip of the source, and what its tokens decode to."""

    row: Row
    panels: list[Panel]
    """The original, then what each tokenizer's cells decode to. Tokenizers that get smaller or
    fewer frames come last, after the original as they get it."""

    @property
    def psnr_db(self) -> dict[str, float]:
        """PSNR in dB by tokenizer, in the order of the panels."""
        return {one.label: one.psnr_db for one in self.panels if one.psnr_db is not None}

    @property
    def side_by_side(self) -> NDArray[np.uint8]:
        """Frames [T, H, W, 3] of all panels, left to right, with black below smaller ones."""
        height = max(one.frames.shape[1] for one in self.panels)
        below = [height - one.frames.shape[1] for one in self.panels]
        padded = [
            np.pad(one.frames, ((0, 0), (0, rows), (0, 0), (0, 0)))
            for one, rows in zip(self.panels, below, strict=True)
        ]
        return np.concatenate(padded, axis=2)

    @property
    def fps(self) -> float:
        """Frames per second; 1 for an image, which has no duration."""
        seconds = self.row["end_s"] - self.row["start_s"]
        frames: int = self.row["num_frames"] - self.row["padded_frames"]
        return frames / seconds if seconds else 1.0


class Recomputer:
    """Holds a dataset's models and a decoder, which must be closed. Not thread-safe.

    Args:
        store: the dataset's root.
        dataset: its metadata.
        retokenize: whether encoders are needed.
        decode: whether decoders are needed.

    Raises:
        ConfigError: the models cannot be loaded, or differ from those that made the dataset; or
            `decode` is asked of clips that are whole videos.
    """

    def __init__(self, store: Store, dataset: Dataset, *, retokenize: bool, decode: bool) -> None:
        self._store = store
        self._columns = {column.name: column for column in dataset.tokenizers}
        self._numbers = {name: dataset.token_numbers(name) for name in self._columns}
        self._config = config = job_config(dataset)
        if config.clip.whole and decode:
            raise ConfigError(
                "the clips of this dataset are whole videos, which cannot be decoded back;"
                " `verify --retokenize` compares their tokens"
            )
        self._models = open_models(dataset) if decode else {}
        self._encoders: list[ClipEncoder] = []
        cuda = config.tokenize.device != "cpu" and torch.cuda.is_available()
        device = "cuda" if cuda else "cpu"
        models = open_models(dataset) if retokenize else {}
        for spec, column in zip(config.tokenizers, dataset.tokenizers, strict=True):
            if spec.name in models:
                self._encoders.append(
                    encoder_of(models[spec.name], spec, column, device, config.tokenize.tile)
                )
        self._decoder = open_decoder(dataset.identity["clip"], config.decode)

    def close(self) -> None:
        """End the decoder's child process."""
        self._decoder.close()

    def clips(self, drawn: Iterable[DrawnRow]) -> Iterator[SourceClip | Finding]:
        """Yield rows with their clips, or why a row has none; sample by sample.

        Raises:
            StoreError: the dataset's store refuses.
        """
        samples: dict[tuple[str, str], list[tuple[int, DrawnRow, Row]]] = {}
        for index, one in enumerate(drawn):
            try:
                row = read_row(self._store, one)
            except DamagedFile as error:
                yield Finding("unreadable", one.part.path, one_line(error))
                continue
            samples.setdefault((row["unit"], row["key"]), []).append((index, one, row))
        for (unit, key), rows in samples.items():
            left = {row["clip_index"]: (index, row) for index, _, row in rows}
            sources = rows[0][1].unit.sources
            why = f"not in {', '.join(sources)}"
            try:
                for clip, frames in self._decode_again(unit, sources, key, set(left)):
                    yield SourceClip(*left.pop(clip.clip_index), clip, frames)
            except (QuarantineError, StoreError, FileNotFoundError) as error:
                why = str(error)
            for _, missing in left.values():
                yield Finding("source", missing["clip_id"], why)

    def _decode_again(
        self, unit: str, sources: Sequence[str], key: str, wanted: Collection[int]
    ) -> Iterator[tuple[Clip, NDArray[Any] | Sample]]:
        """Yield the wanted clips of one sample; none for an index that the source does not hold."""
        sample = self._sample(unit, sources, key)
        if sample is None:
            return
        if self._config.clip.whole:
            if found := whole_clip(self._decoder, sample, unit):
                yield found[0], sample
            return
        left = set(wanted)
        for clip, frames in self._decoder.decode(sample, unit):
            if not left:
                break  # after one more clip: a video that ends there does not cost the child
            if clip.clip_index in left and frames is not None:
                left.remove(clip.clip_index)
                yield clip, frames

    def _sample(self, unit: str, sources: Sequence[str], key: str) -> Sample | None:
        lists = self._config.source.lists
        source = VideoSource(uri=list(sources), lists=lists, max_video_mb=_ANY_VIDEO_MB)
        for sample in SampleReader(source, images=True).read(_work_unit(unit, sources, key)):
            if isinstance(sample, Sample) and sample.key == key:
                return sample
        return None

    def retokenize(self, found: SourceClip) -> Iterator[Finding]:
        """Yield how the clip and its tokens, encoded again, differ from the row in any bit.

        Numbers that go with the tokens, such as `N_channels`, are compared like these.
        """
        row, clip = found.row, found.clip
        for name in _PLACE:
            now, recorded = getattr(clip, name), row[name]
            if not np.array_equal(np.float32(now), np.float32(recorded)):
                yield Finding("source", row["clip_id"], f"{name} {now}, recorded {recorded}")
        with job_arithmetic(self._config.tokenize.threads):
            try:
                cells = self._encode(clip, found.frames)
            except (QuarantineError, ValueError) as error:
                text = f"cannot be encoded again: {one_line(error)}"
                yield Finding("tokens", row["clip_id"], text)
                return
            for encoder in self._encoders:
                column = encoder.column
                for name in column.cell_columns:
                    if (values := cells[name][0]).tobytes() != row[name]:
                        text = _difference(values, row[name], column)
                        yield Finding("tokens", row["clip_id"], f"{name}: {text}")
                for name in (*column.scale_columns, *self._numbers[column.name]):
                    if not np.array_equal(cells[name][0], np.float32(row[name])):
                        text = f"{cells[name][0].tolist()} now, {row[name]} recorded"
                        yield Finding("tokens", row["clip_id"], f"{name}: {text}")

    def _encode(self, clip: Clip, frames: NDArray[Any] | Sample) -> dict[str, NDArray[Any]]:
        if isinstance(frames, Sample):
            video = pieces(self._decoder, frames, clip.unit)
            chunk_frames = self._config.clip.chunk_frames
            return whole_cells(self._encoders, video, clip.num_frames, chunk_frames)[0]
        cells: dict[str, NDArray[Any]] = {}
        for encoder in self._encoders:
            cells.update(encoder(frames[np.newaxis])[0])
        return cells

    def decode(self, found: SourceClip) -> DecodedClip:
        """Return the clip's frames, and those that its tokens decode to."""
        assert not isinstance(found.frames, Sample)  # the constructor refuses whole videos
        clip = found.frames
        panels = {"": [Panel("original", eight_bits(clip))]}
        for name, model in self._models.items():
            column = self._columns[name]
            original = input_frames(clip, column)
            tile = self._config.tokenize.tile
            frames = as_bytes(decode_cells(model, column, found.row, len(original), tile))
            shown = np.arange(len(clip)) // column.every
            text = column.input_text
            alike = panels.setdefault(text, [Panel(f"original {text}", original[shown])])
            alike.append(Panel(name, frames[shown], clip_psnr(original, frames)))
        return DecodedClip(found.row, list(chain.from_iterable(panels.values())))


def _work_unit(unit: str, sources: Sequence[str], key: str) -> WorkUnit:
    """Return the unit's tar or list rows, or the one of its loose files that has the key."""
    if is_tar(sources[0]):
        return WorkUnit(unit=unit, tar_uri=sources[0])
    if (rows := parse_range(sources[0])) is not None:
        uri, start, stop = rows
        return WorkUnit(unit=unit, rows=ListRows(uri=uri, start=start, stop=stop))
    for uri in sources:
        folder = uri.removesuffix(key)
        # A key can end like another one; but all keys of a unit are below one folder.
        if folder.endswith("/") and all(other.startswith(folder) for other in sources):
            return WorkUnit(unit=unit, files=(LooseFile(key=key, uri=uri),))
    return WorkUnit(unit=unit)


def _difference(now: NDArray[Any], recorded: bytes, column: TokenizerColumn) -> str:
    stored = row_cells(recorded, (-1,), column)
    if stored.size != now.size:
        return f"{list(now.shape)} now, {stored.size} cells recorded"
    differ = now.ravel() != stored
    text = f"{differ.sum()} of {stored.size} cells differ"
    if column.bits or column.dtype in ("float16", "float32"):
        largest = np.abs(now.ravel().astype(np.float64) - stored.astype(np.float64)).max()
        text += f", by {largest:.3g} at most"
    return text
