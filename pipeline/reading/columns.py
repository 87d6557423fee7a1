"""From a part's columns to tensors.

| stored | tensor |
| --- | --- |
| `uint8`, `uint16`, `uint32` (code indices) | `int64`, what embeddings and cross-entropy take |
| `float16`, `bfloat16`, `float32` (latents) | the same type, or the `dtype` asked for |
| `uint8` with a scale (latents) | `float32`, or the `dtype` asked for |
| numbers | `int64`, −1 for null; `float64`, NaN for null |
| `audio` | `float32` [channels, samples] in [-1, 1]; null becomes zeros, see `sounds` |
| tracks | `float32` [num_frames, D]; null becomes NaN, see `tracks` |
| others (`caption`, `meta`, `clip_id`, `crop`) | Python values |

The cells of a row group are views of Arrow's memory. Each row is copied once, into its batch, which
owns its memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset.cells import as_tensor, column_cells, row_cells, tensor_dtype, to_tensor
from pipeline.dataset.quantized import Floats, column_scales, dequantize, row_scale
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.dataset.side_columns import SideColumn
from pipeline.errors import ConfigError
from pipeline.reading.channels import ChannelPrefix
from pipeline.reading.spans import Prefix, Window

_WINDOW_OF = ("num_frames", "start_s", "end_s")
"""Columns from which follows where a window begins."""

WINDOW_COLUMNS = ("window_latent", "window_frame", "window_s")
"""Columns of a batch that say where the window of a row begins: latent frame and frame of the
video, from 0, and seconds in the source, at the video's mean frame rate."""

Shapes = dict[str, tuple[int, ...]]
"""Cell column → shape of one row's cells."""


class Columns:
    """The columns to read.

    Args:
        tokenizers: tokenizers of the dataset.
        names: names of the columns.
        normalize: whether latents are normalised as their generator's authors do.
        dtype: type of latents in tensors; None is that of the cells, float32 for those in uint8.
        side: side columns of the dataset.
        span: first frames or window that is read of each clip; None reads all of it.
        prefixes: prefixes of FSQ channels that columns of indices are read as, by column.
        called: names of the columns in a join, by the dataset's own, for errors.

    Attributes:
        cells: tokenizer by cell column.
        ragged: whether the cells of one bucket have several shapes: embeddings of texts.
        plain: names of the other columns.
        names: names of all columns, and of those that they are made with, such as scales.
        schema: schema of the dataset's parts.
        with_shapes: names of all columns and of the columns of the cells' shapes.

    Raises:
        ConfigError: the dataset has no such column, no column was named, the normalisation of a
            column is not known, the `dtype` is not one of floats, or a column is not known of the
            first frames.
    """

    def __init__(
        self,
        tokenizers: Sequence[TokenizerColumn],
        names: Sequence[str],
        normalize: bool = False,
        dtype: torch.dtype | None = None,
        side: Sequence[SideColumn] = (),
        span: Prefix | Window | None = None,
        prefixes: Mapping[str, ChannelPrefix] | None = None,
        called: Mapping[str, str] | None = None,
    ) -> None:
        called = called or {name: name for name in names}
        self._prefixes = prefixes or {}
        self.schema = clip_schema(tokenizers, side)
        known = self.schema.names
        unknown = [name for name in names if name not in known]
        if unknown or not names or isinstance(names, str):
            raise ConfigError(f"columns = {names!r}: must be some of {', '.join(known)}")
        if dtype is not None and not dtype.is_floating_point:
            raise ConfigError(
                f"dtype = {dtype}: must be a floating-point type, such as torch.float16"
            )
        self._dtype = dtype
        owners = {cells: column for column in tokenizers for cells in column.cell_columns}
        self.cells = {name: owners[name] for name in names if name in owners}
        self.ragged = any(column.kind == "embeddings" for column in self.cells.values())
        self.plain = [name for name in names if name not in owners]
        self._sounds = {column.name for column in side if column.holds == "sound"}
        self._cells = {column.name: column for column in side if column.holds == "cells"}
        held = {column.name for column in side if column.holds == "track"}
        self._tracks = held.intersection(names)
        self._prefix = span if isinstance(span, Prefix) else None
        self._window = span if isinstance(span, Window) else None
        if self._prefix:
            _require_known(self._prefix, called, side)
        shapes = [f"{column.name}_shape" for column in self.cells.values()]
        more = [name for column in self.cells.values() for name in column.scale_columns]
        more += ["num_frames"] * bool(self._tracks or span)
        more += ["padded_frames"] * bool(self._prefix) + ["start_s", "end_s"] * bool(self._window)
        self.names = list(dict.fromkeys([*names, *more]))
        latents = {column.name: column for column in tokenizers if column.kind == "latents"}
        self._normalized = [name for name in self.cells if normalize and name in latents]
        for name in self._normalized:
            if latents[name].normalize is None:
                rule = f"no normalisation of {latents[name].model} is known"
                raise ConfigError(
                    f"normalized = True: column {called[name]}: {rule}; read it without normalized"
                )
        self.with_shapes = list(dict.fromkeys([*self.names, *shapes]))

    def shapes(self, table: pa.Table) -> Shapes:
        """Return the shape of a row's cells by column, from a table `with_shapes` of one bucket."""
        return {
            name: tuple(table[f"{column.name}_shape"][0].as_py())
            for name, column in self.cells.items()
        }

    def rows(self, table: pa.Table, shapes: Shapes) -> "Rows":
        """Return the rows of a table, to make batches of.

        Raises:
            pyarrow.ArrowInvalid: cells do not fill their shape, or a scale is wrong.
        """
        cells = {
            name: column_cells(table[name], shapes[name], column)
            for name, column in self.cells.items()
        }
        if self._prefix:
            kept = {n: self._prefix.latent_frames(column) for n, column in self.cells.items()}
            cells = {name: values[..., : kept[name], :, :] for name, values in cells.items()}
        return self._rows(table, cells)

    def ragged_rows(self, table: pa.Table) -> "Rows":
        """Return the rows of a table `with_shapes`, each with cells of its own shape.

        Raises:
            ValueError: cells do not fill their shape, or a scale is wrong.
        """
        cells: dict[str, list[NDArray[Any]]] = {}
        for name, kind in self.cells.items():
            shapes = table[f"{kind.name}_shape"].to_pylist()
            cells[name] = [
                row_cells(value.as_buffer(), shape, kind)
                for value, shape in zip(table[name], shapes, strict=True)
            ]
        return self._rows(table, cells)

    def _rows(self, table: pa.Table, cells: Mapping[str, Any]) -> "Rows":
        scales = {
            name: column_scales(table[scale], len(cells[name][0]), kind)
            for name, kind in self.cells.items()
            for scale in kind.scale_columns
        }
        return Rows(cells, scales, self._plain(table))

    def _plain(self, table: pa.Table) -> dict[str, list[Any]]:
        named = [*self.plain, *_WINDOW_OF] if self._window else self.plain
        plain = {name: table[name].to_pylist() for name in named}
        frames = self._prefix.frames if self._prefix else None
        for name in self._tracks:
            lengths = table["num_frames"].to_pylist()
            plain[name] = [
                None if data is None else np.frombuffer(data, "<f4").reshape(length, -1)[:frames]
                for data, length in zip(plain[name], lengths, strict=True)
            ]
        if self._prefix:
            counts = [table[name].to_pylist() for name in ("num_frames", "padded_frames")]
            shorter = {
                "num_frames": [self._prefix.frames] * len(table),
                "padded_frames": list(map(self._prefix.padded_frames, *counts)),
            }
            plain |= {name: values for name, values in shorter.items() if name in plain}
        return plain

    def batch(
        self, rows: Sequence[tuple["Rows", int]], draws: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return one batch of N rows of one bucket.

        Args:
            rows: each a number n and the `Rows` whose row n it is.
            draws: random number of each row, which places its window; only with windows.

        Returns:
            Columns by name: tensors [N, …] of cells, tensors [N] of numbers, lists of other values.
            The cells of whole videos and the embeddings of texts are a list of N tensors. With
            windows also `WINDOW_COLUMNS`, and the cells of videos are tensors.
        """
        batch: dict[str, Any] = {}
        firsts = [0] * len(rows)
        if self._window and draws is not None:
            frames = [source.plain["num_frames"][n] for source, n in rows]
            firsts = list(map(self._window.first, draws, frames))
            batch |= self._places(rows, firsts)
        for name, kind in self.cells.items():
            if isinstance(rows[0][0].cells[name], list):
                each = [
                    self._row(name, kind, source, n, first)
                    for (source, n), first in zip(rows, firsts, strict=True)
                ]
                windowed = self._window and kind.kind != "embeddings"
                batch[name] = torch.stack(each) if windowed else each
                continue
            shape = np.shape(rows[0][0].cells[name])[1:]
            values = np.empty((len(rows), *shape), tensor_dtype(kind))
            for place, (source, n) in enumerate(rows):
                values[place] = source.cells[name][n]
                if (scale := source.scale(name, n)) is not None:
                    dequantize(values[place], scale)
            batch[name] = self._finished(name, as_tensor(values, kind))
        for name in self.plain:
            column = [source.plain[name][n] for source, n in rows]
            if name in self._sounds:
                batch[name] = sounds(column)
            elif name in self._cells:
                batch[name] = sound_cells(column, self._cells[name])
            elif name in self._tracks:
                batch[name] = tracks(column)
            elif pa.types.is_integer(self.schema.field(name).type):
                filled = [-1 if value is None else value for value in column]
                batch[name] = torch.from_numpy(np.array(filled))
            elif pa.types.is_floating(self.schema.field(name).type):
                batch[name] = torch.from_numpy(np.array(column, np.float64))  # NaN for null
            else:
                batch[name] = column
        return batch

    def _row(self, name: str, kind: TokenizerColumn, source: "Rows", n: int, first: int) -> Tensor:
        """Return the cells of a whole video, from latent frame `first` on, or of a text."""
        cells = source.cells[name][n]
        if self._window and kind.kind != "embeddings":
            cells = cells[..., first : first + self._window.latent_frames, :, :]
        return self._finished(name, to_tensor(cells, kind, source.scale(name, n)), first)

    def _places(self, rows: Sequence[tuple["Rows", int]], firsts: Sequence[int]) -> dict[str, Any]:
        """Return where windows begin: `WINDOW_COLUMNS`."""
        assert self._window is not None
        places = []
        for (source, n), first in zip(rows, firsts, strict=True):
            frames, start_s, end_s = (source.plain[name][n] for name in _WINDOW_OF)
            frame = self._window.first_frame(first, frames)
            places.append((first, frame, start_s + (end_s - start_s) * frame / frames))
        columns = (torch.tensor(values) for values in zip(*places, strict=True))
        return dict(zip(WINDOW_COLUMNS, columns, strict=True))

    def _finished(self, name: str, cells: Tensor, first: int = 0) -> Tensor:
        if name in self._prefixes:
            cells = self._prefixes[name](cells)
        if name in self._normalized:
            cells = normalized(cells, self.cells[name], first)
        if self._dtype is not None and self.cells[name].kind == "latents":
            cells = cells.to(self._dtype)
        return cells


def normalized(latent: Tensor, column: TokenizerColumn, first: int = 0) -> Tensor:
    """Return latents [..., C, t, h, w] with the column's normalisation, computed in float32.

    Args:
        latent: latent frames from `first` on of the clip.
        column: the tokenizer.
        first: number of the first latent frame.
    """
    assert column.normalize is not None
    channels, frames = latent.shape[-4:-2]
    shift, scale = (
        torch.tensor(values).view(channels, -1)[:, :, None, None]
        for values in (column.normalize.shift, column.normalize.scale)
    )
    if shift.shape[1] > 1:  # one for each latent frame
        shift, scale = (values[:, first : first + frames] for values in (shift, scale))
    return ((latent.float() - shift) * scale).to(latent.dtype)


def _require_known(prefix: Prefix, called: Mapping[str, str], side: Sequence[SideColumn]) -> None:
    """Refuse columns whose values are not known of the first frames of a clip."""
    tracks = (column.name for column in side if column.holds == "track")
    unknown = {"end_s": "time", **{f"{name}_outside": "number" for name in tracks}}
    unknown |= {column.name: "sound" for column in side if column.holds in ("sound", "cells")}
    unknown |= {"audio_silence": "number"} if "audio" in unknown else {}
    for name, shown in called.items():
        if name in unknown:
            raise ConfigError(
                f"frames = {prefix.frames}: column {shown}: only the {unknown[name]} of the whole"
                " stored clip is known; read it without frames"
            )


def sounds(streams: Sequence[bytes | None]) -> Tensor | list[Tensor | None]:
    """Return the sound of clips, decoded.

    Args:
        streams: values of the column `audio`.

    Returns:
        Tensor [B, channels, n] if all streams have one length, where null becomes zeros; otherwise
        a list of tensors [channels, n], and None for null.
    """
    from pipeline.decode.sound_stream import decode_sound  # here, because few readers need FFmpeg

    found = [None if data is None else torch.from_numpy(decode_sound(data)) for data in streams]
    shapes = {sound.shape for sound in found if sound is not None}
    if len(shapes) != 1:
        return found
    silence = torch.zeros(shapes.pop())
    return torch.stack([silence if sound is None else sound for sound in found])


def tracks(values: Sequence[NDArray[np.float32] | None]) -> Tensor | list[Tensor | None]:
    """Return a track of clips.

    Args:
        values: array [T, D] of each clip, None for null.

    Returns:
        Tensor [B, T, D] if all arrays have one shape, where null becomes NaN; otherwise a list of
        tensors [T, D], and None for null.
    """
    found = [None if one is None else torch.tensor(one) for one in values]
    shapes = {one.shape for one in found if one is not None}
    if len(shapes) != 1:
        return found
    missing = torch.full(shapes.pop(), torch.nan)
    return torch.stack([missing if one is None else one for one in found])


def sound_cells(values: Sequence[bytes | None], column: SideColumn) -> Tensor | list[Tensor | None]:
    """Return the cells of the sound of clips.

    Args:
        values: values of the column.
        column: the column.

    Returns:
        Tensor [B, rows, t], int64 of codes and float32 of latents, if no value is null and all have
        one length; otherwise a list of tensors [rows, t], and None for null.
    """
    dtype, rows = np.dtype(str(column.settings["dtype"])), int(column.settings["rows"])
    wide = np.float32 if dtype.kind == "f" else np.int64
    found = [
        None
        if value is None
        else torch.from_numpy(np.frombuffer(value, dtype).reshape(rows, -1).astype(wide))
        for value in values
    ]
    whole = [cells for cells in found if cells is not None]
    same = len(whole) == len(found) and len({cells.shape for cells in whole}) == 1
    return torch.stack(whole) if same else found


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one row group."""

    cells: Mapping[str, NDArray[Any] | list[NDArray[Any]]]
    """Cells of the stored type by column: one array [rows, …], or a list of one array for each row.
    The arrays are views of Arrow's memory."""
    scales: Mapping[str, Floats]
    """Scales [rows, 2·C] by cell column, of those that have them."""
    plain: dict[str, list[Any]]
    """Values of the other columns, by column."""

    def scale(self, name: str, n: int) -> Floats | None:
        """Return the scale of row n of a cell column; None if it has none."""
        return self.scales[name][n] if name in self.scales else None


def row_tensors(row: Mapping[str, Any], tokenizers: Sequence[TokenizerColumn]) -> dict[str, Any]:
    """Return one row with its cells as tensors, without the columns of shapes and scales.

    Raises:
        ValueError: cells do not fill their shape, or a scale is wrong.
    """
    decoded = dict(row)
    for column in tokenizers:
        shape, scale = decoded.pop(f"{column.name}_shape"), row_scale(row, column)
        for name in column.cell_columns:
            decoded[name] = to_tensor(row_cells(row[name], shape, column), column, scale)
        for name in column.scale_columns:
            del decoded[name]
    return decoded
