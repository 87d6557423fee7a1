"""The rows of units as items to export: one clip with its cells and its text embedding."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from pipeline.dataset.records import Part, UnitRecord
from pipeline.dataset.schema import CLIP_FIELDS, TokenizerColumn
from pipeline.reading.columns import Columns, normalized
from pipeline.reading.row_groups import RowGroups
from pipeline.reading.snapshot import Snapshot
from pipeline.records import Bucket

_FIELDS: Final = [field.name for field in CLIP_FIELDS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One clip to export."""

    fields: dict[str, Any]
    """Values of the clip's own columns, by name; numbers of frames are those of `bucket`."""
    bucket: Bucket
    """Shape of the clip as the tokenizer of the exported column got it."""
    fps: float
    """Number of these frames per second."""
    cells: Tensor
    """Latents `[C, t, h, w]` float32, normalised if the format takes them so; or indices
    `[t, h, w]` int64."""
    text: Tensor | None = None
    """Embedding of the caption `[tokens, channels]` float32, without padding."""

    @property
    def name(self) -> str:
        """Name for files: 32 hex digits of a hash of the `clip_id`, which can hold any text."""
        return hashlib.sha256(self.fields["clip_id"].encode()).hexdigest()[:32]

    @property
    def caption(self) -> str:
        """Caption; empty if there is none."""
        return self.fields["caption"] or ""

    @property
    def num_bytes(self) -> int:
        """Number of bytes of the tensors."""
        return self.cells.nbytes + (0 if self.text is None else self.text.nbytes)


class ColumnReader:
    """Reads one cell column of a dataset, a row at a time.

    Args:
        snapshot: the dataset.
        column: the column.
        fields: names of other columns to read.
    """

    def __init__(self, snapshot: Snapshot, column: TokenizerColumn, fields: Sequence[str]) -> None:
        self._name = column.name
        self._columns = Columns(
            snapshot.tokenizers, [column.name, *fields], side=snapshot.dataset.side
        )
        self._groups = RowGroups(snapshot.store, self._columns)

    def rows(self, parts: Sequence[Part]) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Yield the other columns and the cells of each row; one row group is in memory.

        Raises:
            StoreError: a part is missing or damaged, or the store refuses.
        """
        for part in parts:
            for group in range(len(self._groups.of(part))):
                rows = self._groups.read(part, [group])[group]
                for n in range(len(rows.plain["clip_id"])):
                    fields = {name: values[n] for name, values in rows.plain.items()}
                    yield fields, self._columns.batch([(rows, n)])[self._name][0]


class ItemReader:
    """Reads the items of units.

    Args:
        snapshot: the dataset.
        column: column to export.
        normalize: whether to normalise latents.
        text: dataset of text embeddings, and its column; None for items without text.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        column: TokenizerColumn,
        normalize: bool,
        text: tuple[Snapshot, TokenizerColumn] | None,
    ) -> None:
        self._column = column
        self._normalize = normalize
        self._fps = snapshot.dataset.identity["clip"]["fps"]
        self._cells = ColumnReader(snapshot, column, _FIELDS)
        self._texts = None if text is None else ColumnReader(*text, ["clip_id"])

    def items(
        self, bucket: str, units: Sequence[tuple[UnitRecord, UnitRecord | None]]
    ) -> Iterator[Item | None]:
        """Yield the items of one bucket; None for each row that has no text embedding.

        Args:
            bucket: name of the bucket.
            units: units with those of the same names in the dataset of text embeddings.

        Raises:
            StoreError: a part is missing or damaged, or the store refuses.
        """
        for unit, text_unit in units:
            texts = None
            if self._texts is not None:
                found = [] if text_unit is None else _of_bucket(text_unit, bucket)
                texts = _Texts(self._texts.rows(found))
            for fields, cells in self._cells.rows(_of_bucket(unit, bucket)):
                text = None if texts is None else texts.take(fields["clip_id"])
                if texts is not None and text is None:
                    yield None
                    continue
                own, got = self._own(fields, bucket)
                yield Item(
                    fields=own,
                    bucket=got,
                    fps=(self._fps or fields["source_fps"]) / self._column.every,
                    cells=self._finished(cells),
                    text=None if text is None else text.float(),
                )

    def _own(self, fields: dict[str, Any], bucket: str) -> tuple[dict[str, Any], Bucket]:
        """Return a clip's columns and its shape as the column's tokenizer got the clip."""
        column, clip, frames = self._column, Bucket.named(bucket), fields["num_frames"]
        shown, height, width = column.input_shape(frames, clip.height, clip.width)
        kept, _, _ = column.input_shape(frames - fields["padded_frames"], clip.height, clip.width)
        lengths = {"num_frames": shown, "padded_frames": shown - kept}
        return fields | lengths, Bucket(frames=clip.frames and shown, height=height, width=width)

    def _finished(self, cells: Tensor) -> Tensor:
        if self._column.kind == "indices":
            return cells
        return normalized(cells.float(), self._column) if self._normalize else cells.float()


class _Texts:
    """Text embeddings of a unit by clip: those that were passed are kept until they are taken.

    Both datasets have one order of rows, unless parts were merged, so few are kept.
    """

    def __init__(self, rows: Iterator[tuple[dict[str, Any], Tensor]]) -> None:
        self._rows = rows
        self._passed: dict[str, Tensor] = {}

    def take(self, clip_id: str) -> Tensor | None:
        """Return the embedding of a clip, once; None if there is none."""
        while clip_id not in self._passed:
            fields, text = next(self._rows, ({}, None))
            if text is None:
                return None
            self._passed[fields["clip_id"]] = text
        return self._passed.pop(clip_id)


def _of_bucket(unit: UnitRecord, bucket: str) -> list[Part]:
    return [part for part in unit.parts if part.bucket == bucket]
