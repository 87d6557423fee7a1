"""One tokenizer with one fixed batch shape: frames in, cells of its columns out.

Every call of the network gets a batch of B clips. A smaller batch is filled with black clips, whose
results are dropped. So a clip's cells do not depend on the number of clips beside it. Nothing waits
for a GPU until the results of a batch are read, while the next batch computes (`lanes`). Letters: N
clips given, B clips per call, T H W frames and pixels.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.job import Tile
from pipeline.dataset.cells import from_tensor
from pipeline.dataset.quantized import quantize, scale_fault
from pipeline.dataset.schema import TokenizerColumn
from pipeline.tokenizers.bits_by_scene import BitsByScene
from pipeline.tokenizers.inputs import area_means, input_frames
from pipeline.tokenizers.lanes import Lane, lane_to
from pipeline.tokenizers.protocol import (
    ChunkedTokenizer,
    Encoded,
    EncodeStream,
    TiledTokenizer,
    VideoTokenizer,
    tiling,
)
from pipeline.tokenizers.reconstruction import as_bytes, clip_psnr, decode_cells
from vidtok.tile_plan import NoRoomError

if TYPE_CHECKING:
    from pipeline.tokenizers.vidtok_adapter import VidTok

_log = logging.getLogger(__name__)

Cells = dict[str, NDArray[Any]]
"""Arrays [N, …] in the stored dtype, by name of a cell column or column of scales."""

Finite = NDArray[np.bool_]
"""Whether all values of a clip are finite, [N]."""


Pending = Callable[[], tuple[Cells, Finite]]
"""Waits for the results of a batch that was queued, and returns them."""


class ClipEncoder:
    """Encodes clips into the cells of one `TokenizerColumn`. Several threads can use it.

    Args:
        model: on the device of `lane`, in the dtype of its arithmetic.
        column: the column that holds the cells.
        batch: B.
        lane: the way to the device; None for a CPU. Encoders of one device share it.
        by_scene: what is done to the indices of a clip that was encoded; None does nothing.
        tile: `tokenize.tile`; tokenizers without tiles ignore it.
    """

    def __init__(
        self,
        model: VideoTokenizer,
        column: TokenizerColumn,
        *,
        batch: int,
        lane: Lane | None = None,
        by_scene: BitsByScene | None = None,
        tile: Tile = None,
    ) -> None:
        self.column = column
        self._model = model
        self._batch = batch
        self._lane = lane or lane_to("cpu")
        self._by_scene = by_scene
        self._tile = tile

    def __call__(self, frames: NDArray[Any], where: str = "") -> tuple[Cells, Finite]:
        """Return the cells of N clips, and which of the clips are finite.

        Args:
            frames: [N, T, H, W, 3] in [0, 255], uint8 or float32; N of any size.
            where: unit and row of the clips, for the log.
        """
        name = f"{where}: {self.column.name}" if where else self.column.name
        taken = frames[:, :: self.column.every]
        results = self.in_order()
        for start in range(0, len(taken), self._batch):
            clips = taken[start : start + self._batch]
            for pending in self._queued(clips, self._batch, self._tile, name):
                results.add(pending)
        cells, finite = _quantized(*_joined(results.all()), self.column)
        if self._by_scene is not None:
            self._follow_scene(self._by_scene, cells, frames)
        return cells, finite

    def _follow_scene(self, rule: BitsByScene, cells: Cells, frames: NDArray[Any]) -> None:
        """Replace the indices of clips by those of a rule, and add the numbers of each clip."""
        name = self.column.name
        numbers: list[dict[str, float]] = []
        for n, clip in enumerate(frames):
            original = input_frames(clip, self.column)

            def psnr_db(
                indices: Tensor, channels: int | None, original: NDArray[np.uint8] = original
            ) -> float:
                def decode(tile: Tile) -> Tensor:
                    tiles = tiling(self._model, tile)
                    if channels is None:
                        return self._model.decode(indices, len(original), **tiles)
                    model = cast("VidTok", self._model)  # the configuration's check sees to it
                    assert model.channels is not None
                    prefixes = model.channels.prefix_indices(indices, channels)
                    return model.decode_prefixes(prefixes, len(original), channels, **tiles)

                return self._psnr(decode, original)

            indices = torch.from_numpy(cells[name][n : n + 1].astype(np.int64))
            changed, found = rule(indices, psnr_db)
            cells[name][n] = changed[0].numpy()
            numbers.append(found)
        for key in numbers[0]:
            cells[f"{name}_{key}"] = np.array([found[key] for found in numbers])

    def psnr(self, row: Mapping[str, Any], frames: NDArray[Any]) -> float:
        """Return the PSNR of a row's cells, decoded back, against the frames of its clip, in dB.

        Args:
            row: the columns of one clip, as they are stored.
            frames: [T, H, W, 3] in [0, 255], the frames of the clip.

        Raises:
            ValueError: the decoded frames are not finite.
            torch.OutOfMemoryError: the clip does not fit the memory.
        """
        original = input_frames(frames, self.column)
        model, column = self._model, self.column
        return self._psnr(
            lambda tile: decode_cells(model, column, row, len(original), tile), original
        )

    def _psnr(self, decode: Callable[[Tile], Tensor], original: NDArray[np.uint8]) -> float:
        with torch.inference_mode():
            video = self._decoded(decode, original.shape[:3])
            if not bool(torch.isfinite(video).all()):
                # As bytes they would be pictures, and any indices would be as good as any others.
                raise ValueError("NaN or infinity among the decoded values")
            return clip_psnr(original, as_bytes(video))

    def _decoded(self, decode: Callable[[Tile], Tensor], size: tuple[int, ...]) -> Tensor:
        """Return a decoded clip of T, H and W; where the GPU's memory is too small, in tiles."""
        tile: Tile = self._tile
        while True:
            try:
                with self._lane.network:
                    return decode(tile)
            except NoRoomError:  # an estimate, which already tried all tiles
                raise
            except torch.OutOfMemoryError as error:
                reason = str(error)
            tile = self._smaller(tile, size, reason, decoder=True)
            name = self.column.name
            _log.warning(
                "%s: not enough memory to decode a clip; trying tiles of %d pixels", name, tile
            )

    def whole_clip(self, num_frames: int, chunk_frames: int) -> "WholeClip":
        """Begin a clip whose frames arrive in pieces.

        Args:
            num_frames: number of frames of the clip, of which the column's `every` takes some.
            chunk_frames: number of frames that the network gets at a time.

        Raises:
            ValueError: the model does not encode such clips in such chunks.
        """
        model = cast(ChunkedTokenizer, self._model)  # the configuration's check sees to it
        taken = -(-num_frames // self.column.every)
        return WholeClip(
            self, model.encode_stream(taken, chunk_frames, **tiling(model, self._tile))
        )

    def in_order(self) -> "InOrder":
        """Return a queue of results that is as long as the device's lane allows."""
        return InOrder(self._lane.ahead)

    def queue(
        self, frames: NDArray[Any], batch: int, encode: Callable[[Tensor], Encoded | None]
    ) -> Pending | None:
        """Queue all work of a batch, from its frames to its cells in the memory of the host.

        Args:
            frames: [N, T, H, W, 3] in [0, 255], uint8 or float32.
            batch: B ≥ N; black clips fill it up.
            encode: takes the network's input [B, 3, T, h, w] in [-1, 1].

        Returns:
            A call that waits for the results of the N clips; None if `encode` returns None.
        """
        with torch.inference_mode():
            sent = self._lane.send(frames, batch)
            with self._lane.network:
                encoded = encode(self._video(sent))
                return None if encoded is None else self._fetched(encoded, len(frames))

    def _video(self, frames: Tensor) -> Tensor:
        """Return frames [B, T, H, W, 3] as the network's input [B, 3, T, h, w] in [-1, 1].

        h and w are those of the column's `scale`. The values are the reference's
        (x / 255 - 0.5) / 0.5, in float32. The result is a view: in memory the channels stay last,
        as the network needs them.
        """
        video = area_means(frames, self.column.scale).div_(255).sub_(0.5).div_(0.5)
        return video.permute(0, 4, 1, 2, 3)

    def _fetched(self, encoded: Encoded, num_clips: int) -> Pending:
        """Begin to fetch the cells of the first clips of a batch, and which of them are finite.

        Latents of a column with scales are float32, because a range is that of the whole clip.
        """
        column = self.column
        finite = _finite(encoded.latent[:num_clips])
        if column.kind == "indices":
            assert encoded.indices is not None
            wait = self._lane.fetch([finite, encoded.indices[:num_clips]])
            return lambda: self._index_cells(*wait())
        dtype = getattr(torch, "float32" if column.bits else column.dtype)
        values = []
        for _, value in zip(column.cell_columns, (encoded.mean, encoded.logvar), strict=False):
            assert value is not None
            values.append(value[:num_clips].to(dtype))
            finite = finite & _finite(values[-1])  # float16 overflows where float32 does not
        wait = self._lane.fetch([finite, *values])
        return lambda: self._latent_cells(*wait())

    def _index_cells(self, finite: Tensor, fetched: Tensor) -> tuple[Cells, Finite]:
        column, kept = self.column, finite.numpy()
        assert column.codebook_size is not None
        indices: NDArray[np.int32] = fetched.numpy()
        inside: Finite = (indices >= 0) & (indices < column.codebook_size)
        # Only clips that are not finite may have indices without a meaning.
        assert inside[kept].all(), "a code index lies outside the codebook"
        return {column.name: np.where(inside, indices, 0).astype(column.stored_dtype)}, kept

    def _latent_cells(self, finite: Tensor, *values: Tensor) -> tuple[Cells, Finite]:
        column = self.column
        named = zip(column.cell_columns, values, strict=True)
        return {name: from_tensor(value, column) for name, value in named}, finite.numpy()

    def _queued(self, frames: NDArray[Any], batch: int, tile: Tile, name: str) -> list[Pending]:
        """Queue one batch; where the GPU's memory is too small, two halves, then smaller tiles.

        Halves come first, because they cost nothing. Tiles compute their halos twice. The log calls
        the batch by `name`.
        """
        encode = partial(self._model.encode, **tiling(self._model, tile))
        try:
            pending = self.queue(frames, batch, encode)
            assert pending is not None
            return [pending]
        except NoRoomError:  # an estimate, which already tried the smallest batch and all tiles
            raise
        except torch.OutOfMemoryError as error:
            reason = str(error)
        if batch == 1:
            num, height, width = frames.shape[1:4]
            size = num, height // self.column.scale, width // self.column.scale
            smaller = self._smaller(tile, size, reason, decoder=False)
            _log.warning(
                "%s: not enough memory for a clip; trying tiles of %d pixels", name, smaller
            )
            return self._queued(frames, 1, smaller, name)
        torch.cuda.empty_cache()
        half = -(-batch // 2)
        _log.warning("%s: not enough memory for a batch of %d clips; trying %d", name, batch, half)
        halves = (part for part in (frames[:half], frames[half:]) if len(part))
        return [each for part in halves for each in self._queued(part, half, tile, name)]

    def _smaller(self, tile: Tile, size: tuple[int, ...], reason: str, *, decoder: bool) -> int:
        """Return the tile to try after one that was too large for a clip of T, H and W.

        The error has to be handled before: it holds the tensors of the call that failed.

        Raises:
            torch.OutOfMemoryError: there is no such tile; with the `reason`.
        """
        torch.cuda.empty_cache()
        smaller = None
        if tiling(self._model, tile):
            model = cast(TiledTokenizer, self._model)
            smaller = model.smaller_tile(size, tile, decoder=decoder)
        if smaller is None:
            raise torch.OutOfMemoryError(reason)
        return smaller


class InOrder:
    """Results in the order of their batches; the last `ahead` of them may still be computed."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._pending: deque[Pending] = deque()
        self._done: list[tuple[Cells, Finite]] = []

    def add(self, pending: Pending) -> None:
        """Take in a batch that was queued, and read those that have enough work behind them."""
        self._pending.append(pending)
        self._read(self._ahead)

    def all(self) -> list[tuple[Cells, Finite]]:
        """Return all results."""
        self._read(0)
        return self._done

    def _read(self, left: int) -> None:
        while len(self._pending) > left:
            self._done.append(self._pending.popleft()())


class WholeClip:
    """One clip whose frames arrive in pieces; made by `ClipEncoder.whole_clip`."""

    def __init__(self, encoder: ClipEncoder, stream: EncodeStream) -> None:
        self._encoder = encoder
        self._stream = stream
        self._results = encoder.in_order()
        self._seen = 0
        """Number of frames of the pieces so far."""

    def push(self, frames: NDArray[Any]) -> None:
        """Take in the next frames [n, H, W, 3] in [0, 255]."""
        every = self._encoder.column.every
        first = -self._seen % every
        self._seen += len(frames)
        if first >= len(frames):
            return
        frames = frames[first::every]
        pending = self._encoder.queue(frames[np.newaxis], 1, self._stream.push)
        if pending is not None:
            self._results.add(pending)

    def cells(self) -> tuple[Cells, Finite]:
        """Return the cells of the clip, N = 1, and whether they are finite."""
        column, parts = self._encoder.column, self._results.all()
        cells, _ = _joined(parts, 1 + column.axes.index("t"))
        finite = np.logical_and.reduce([finite for _, finite in parts])
        return _quantized(cells, finite, column)


def _joined(parts: list[tuple[Cells, Finite]], axis: int = 0) -> tuple[Cells, Finite]:
    cells = {
        name: np.concatenate([cells[name] for cells, _ in parts], axis) for name in parts[0][0]
    }
    return cells, np.concatenate([finite for _, finite in parts])


def _quantized(cells: Cells, finite: Finite, column: TokenizerColumn) -> tuple[Cells, Finite]:
    """Return whole clips with their latents as the column stores them."""
    if column.bits is None:
        return cells, finite
    latents = cells[column.name]
    stored, scales = quantize(latents, column.bits)
    faults = [scale_fault(scale, latents.shape[1], column) for scale in scales]
    [name] = column.scale_columns
    return {column.name: stored, name: scales}, finite & [fault is None for fault in faults]


def _finite(values: Tensor) -> Tensor:
    """Return which clips of [N, …] have finite values only, [N]."""
    return torch.isfinite(values).flatten(1).all(1)
