"""A dataset as a notebook shows it, and one clip of it: row, tokens, frames, decoded frames."""

import base64
import html
import io
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.dataset.row_sampling import DrawnRow, read_row
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError, PipelineError, StoreError
from pipeline.formatting import counted, format_bytes, visible
from pipeline.reading.columns import row_tensors
from pipeline.reading.snapshot import Snapshot, open_snapshot
from pipeline.records import Bucket, Sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, repr=False)
class OpenDataset(Snapshot):
    """A snapshot that shows itself, and its clips.

    `repr` is a few lines of text. A notebook shows tables.
    """

    def clip(self, clip_id: str | None = None) -> "OpenClip":
        """Return one clip.

        Args:
            clip_id: id of the clip; None takes the first of the first unit by name.

        Raises:
            ConfigError: no row has this id, or there are no rows.
            StoreError: a part cannot be read.
        """
        from pipeline.operations.show import find_row, first_rows

        if clip_id is not None:
            return OpenClip(self, find_row(self.store, self.manifest, clip_id))
        for drawn in first_rows(self.store, self.manifest, 1):
            return OpenClip(self, drawn)
        raise ConfigError(
            f"{self.store.uri}: has no clips; `python -m pipeline status` shows what it contains"
        )

    def facts(self) -> dict[str, str]:
        """Return what is shown of the dataset: names and values."""
        counts, parts = self.counts, self.manifest.parts()
        files = {part.path: part.bytes for part in parts}  # units share merged parts
        shapes = {
            name: f"{counted(sum(p.rows for p in parts if p.bucket == name), 'clip')}"
            f" of {Bucket.named(name).text}"
            for name in sorted({part.bucket for part in parts})
        }
        return {
            "dataset": f"{self.store.uri}, version {self.version}",
            "samples": f"{counts.samples_read:,} read, {counts.samples_quarantined:,} quarantined",
            "clips": f"{len(self):,} in {counted(len(files), 'part')},"
            f" {format_bytes(sum(files.values()))}",
            **{f"bucket {name}": text for name, text in shapes.items()},
            **{f"column {one.name}": _cells(one) for one in self.tokenizers},
            "other columns": ", ".join(self._plain_columns()),
        }

    def _plain_columns(self) -> Iterator[str]:
        own = tuple(column.name for column in self.tokenizers)
        shown = {f"{name}{end}" for name in own for end in ("", "_shape", "_logvar", "_scale")}
        return (name for name in self.schema.names if name not in shown)

    def __repr__(self) -> str:
        return _text(self.facts())

    def _repr_html_(self) -> str:
        return _table(self.facts())


class OpenClip:
    """One clip of a dataset. Pixels are decoded when they are first asked for.

    Args:
        dataset: the dataset.
        drawn: place of the row.
    """

    def __init__(self, dataset: OpenDataset, drawn: DrawnRow) -> None:
        self._dataset = dataset
        self._drawn = drawn
        self._row = read_row(dataset.store, drawn)

    @property
    def row(self) -> dict[str, Any]:
        """Columns of the row, with the number of bytes in place of bytes."""
        return {
            name: format_bytes(len(value)) if isinstance(value, bytes) else value
            for name, value in self._row.items()
        }

    @cached_property
    def tokens(self) -> "dict[str, Tensor]":
        """Cells by column: code indices [t, h, w], or latents [C, t, h, w]."""
        tensors = row_tensors(self._row, self._dataset.tokenizers)
        names = [name for one in self._dataset.tokenizers for name in one.cell_columns]
        return {name: tensors[name] for name in names}

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """Frames of the source [T, H, W, 3].

        Raises:
            ConfigError: the clip is a whole video.
            StoreError: the source cannot be read.
        """
        from pipeline.operations.recompute import Recomputer, SourceClip
        from pipeline.tokenizers.reconstruction import eight_bits

        store, head = self._dataset.store, self._dataset.dataset
        with closing(Recomputer(store, head, retokenize=False, decode=False)) as recomputer:
            [found] = recomputer.clips([self._drawn])
        if not isinstance(found, SourceClip):
            raise StoreError(f"{found}; `tokens` and `decoded` do not need the source")
        if isinstance(found.frames, Sample):
            raise ConfigError(f"{self._row['clip_id']}: whole videos cannot be shown; use `tokens`")
        return eight_bits(found.frames)

    @cached_property
    def decoded(self) -> dict[str, NDArray[np.uint8]]:
        """Frames [t, h, w, 3] that the cells decode to, by tokenizer; the source is not read.

        Raises:
            ConfigError: the models cannot be loaded, or differ from those that made the dataset.
        """
        from pipeline.tokenizers.models import open_models
        from pipeline.tokenizers.reconstruction import as_bytes, decode_cells

        models = open_models(self._dataset.dataset)
        columns = [one for one in self._dataset.tokenizers if one.name in models]
        frames = self._row["num_frames"]
        return {
            one.name: as_bytes(
                decode_cells(models[one.name], one, self._row, one.input_shape(frames, 1, 1)[0])
            )
            for one in columns
        }

    def picture(self) -> Image.Image:
        """Return frames of the source, if it can be read, above what each tokenizer decodes to."""
        from pipeline.operations.show import draw_strips

        strips = list(self.decoded.items())
        with suppress(PipelineError):
            strips.insert(0, ("original", self.frames))
        return draw_strips(strips)

    def show(self) -> None:
        """Open the picture in the viewer of this machine."""
        self.picture().show()

    def __repr__(self) -> str:
        return _text(self.row)

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.picture().save(data, "PNG")
        return data.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self._repr_png_()).decode()
        return f'<img src="data:image/png;base64,{data}">{_table(self.row)}'


def open_for_display(
    uri: str, version: int | None = None, storage_options: Mapping[str, Any] | None = None
) -> OpenDataset:
    """Open a dataset; arguments and errors as `pipeline.reading.snapshot.open_snapshot`."""
    found = open_snapshot(uri, version, storage_options)
    return OpenDataset(found.store, found.dataset, found.manifest)


def _cells(column: TokenizerColumn) -> str:
    return f"{column.kind} [{', '.join(column.axes)}] {column.dtype} of {column.model}"


def _text(values: Mapping[str, object]) -> str:
    return "\n".join(f"{name}: {visible(str(value))}" for name, value in values.items())


def _table(values: Mapping[str, object]) -> str:
    rows = (
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(visible(str(value)))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{''.join(rows)}</table>"
