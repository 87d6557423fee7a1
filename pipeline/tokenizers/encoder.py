"""One tokenizer with one fixed batch shape: frames in, cells of its columns out.

Every call of the network gets a batch of B clips. A smaller batch is filled with black clips, whose
results are dropped. So a clip's cells do not depend on the number of clips beside it. Letters: N
clips given, B clips per call, T H W frames and pixels.
"""

import logging
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset.cells import from_tensor
from pipeline.dataset.quantized import quantize, scale_fault
from pipeline.dataset.schema import TokenizerColumn
from pipeline.tokenizers.inputs import area_means, input_frames
from pipeline.tokenizers.protocol import ChunkedTokenizer, Encoded, EncodeStream, VideoTokenizer
from pipeline.tokenizers.reconstruction import clip_psnr, decode_cells

_log = logging.getLogger(__name__)

Cells = dict[str, NDArray[Any]]
"""Arrays [N, …] in the stored dtype, by name of a cell column or column of scales."""

Finite = NDArray[np.bool_]
"""Whether all values of a clip are finite, [N]."""


class ClipEncoder:
    """Encodes clips into the cells of one `TokenizerColumn`.

    Args:
        model: on `device`, in the dtype of its arithmetic.
        column: the column that holds the cells.
        batch: B.
        device: device of the model.
    """

    def __init__(
        self, model: VideoTokenizer, column: TokenizerColumn, *, batch: int, device: str = "cpu"
    ) -> None:
        self.column = column
        self._model = model
        self._batch = batch
        self._device = torch.device(device)

    def __call__(self, frames: NDArray[Any]) -> tuple[Cells, Finite]:
        """Return the cells of N clips, and which of the clips are finite.

        Args:
            frames: [N, T, H, W, 3] in [0, 255], uint8 or float32; N of any size.
        """
        frames = frames[:, :: self.column.every]
        starts = range(0, len(frames), self._batch)
        cells, finite = _joined(
            [self._encode(frames[start : start + self._batch], self._batch) for start in starts]
        )
        return _quantized(cells, finite, self.column)

    def psnr(self, row: Mapping[str, Any], frames: NDArray[Any]) -> float:
        """Return the PSNR of a row's cells, decoded back, against the frames of its clip, in dB.

        Args:
            row: the columns of one clip, as they are stored.
            frames: [T, H, W, 3] in [0, 255], the frames of the clip.
        """
        original = input_frames(frames, self.column)
        with torch.inference_mode():
            decoded = decode_cells(self._model, self.column, row, len(original))
        return clip_psnr(original, decoded)

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
        return WholeClip(self, model.encode_stream(taken, chunk_frames))

    def video(self, frames: NDArray[Any], batch: int) -> Tensor:
        """Return frames [N, T, H, W, 3] as the network's input [B, 3, T, h, w] in [-1, 1].

        h and w are those of the column's `scale`. The values are the reference's
        (x / 255 - 0.5) / 0.5, in float32. The result is a view: in memory the channels stay last,
        as the network needs them.
        """
        filled = np.zeros((batch, *frames.shape[1:]), frames.dtype)
        filled[: len(frames)] = frames
        video = torch.from_numpy(filled)
        if self._device.type == "cuda":
            # From pinned memory, the copy runs while the GPU computes the call before.
            video = video.pin_memory().to(self._device, non_blocking=True)
        video = area_means(video, self.column.scale).div_(255).sub_(0.5).div_(0.5)
        return video.permute(0, 4, 1, 2, 3)

    def cells(self, encoded: Encoded, num_clips: int) -> tuple[Cells, Finite]:
        """Return the cells of the first clips of a batch, and which of them are finite.

        Latents of a column with scales are float32, because a range is that of the whole clip.
        """
        column = self.column
        finite = _finite(encoded.latent[:num_clips])
        if column.kind == "indices":
            assert encoded.indices is not None
            assert column.codebook_size is not None
            indices: NDArray[np.int32] = encoded.indices[:num_clips].cpu().numpy()
            inside: Finite = (indices >= 0) & (indices < column.codebook_size)
            # Only clips that are not finite may have indices without a meaning.
            assert inside[finite].all(), "a code index lies outside the codebook"
            return {column.name: np.where(inside, indices, 0).astype(column.stored_dtype)}, finite
        cells = {}
        dtype = getattr(torch, "float32" if column.bits else column.dtype)
        for name, value in zip(column.cell_columns, (encoded.mean, encoded.logvar), strict=False):
            assert value is not None
            stored = value[:num_clips].to(dtype)
            finite &= _finite(stored)  # float16 overflows where float32 does not
            cells[name] = from_tensor(stored, column)
        return cells, finite

    def _encode(self, frames: NDArray[Any], batch: int) -> tuple[Cells, Finite]:
        """Encode one batch; where the GPU's memory is too small, in two halves."""
        try:
            with torch.inference_mode():
                return self.cells(self._model.encode(self.video(frames, batch)), len(frames))
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        torch.cuda.empty_cache()
        half = -(-batch // 2)
        _log.warning("%s: no memory for %d clips; trying %d", self.column.name, batch, half)
        halves = (frames[:half], frames[half:])
        return _joined([self._encode(part, half) for part in halves if len(part)])


class WholeClip:
    """One clip whose frames arrive in pieces; made by `ClipEncoder.whole_clip`."""

    def __init__(self, encoder: ClipEncoder, stream: EncodeStream) -> None:
        self._encoder = encoder
        self._stream = stream
        self._parts: list[tuple[Cells, Finite]] = []
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
        with torch.inference_mode():
            encoded = self._stream.push(self._encoder.video(frames[np.newaxis], 1))
            if encoded is not None:
                self._parts.append(self._encoder.cells(encoded, 1))

    def cells(self) -> tuple[Cells, Finite]:
        """Return the cells of the clip, N = 1, and whether they are finite."""
        column = self._encoder.column
        cells, _ = _joined(self._parts, 1 + column.axes.index("t"))
        finite = np.logical_and.reduce([finite for _, finite in self._parts])
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


def _finite(values: Tensor) -> Finite:
    finite: Finite = torch.isfinite(values).flatten(1).all(1).cpu().numpy()
    return finite
