"""One tokenizer in one fixed shape: frames in, the cells of its columns out.

Every call of the network is a batch of the same B clips; a short one is filled up with black clips,
whose results are thrown away. So the arithmetic of a clip does not depend on how many neighbours it
has. Letters: N clips given, B clips per call, T H W frames and pixels.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset.cells import from_tensor
from pipeline.dataset.schema import TokenizerColumn
from pipeline.tokenizers.reconstruction import DecodingModel, clip_psnr, decode_cells, eight_bits

_log = logging.getLogger(__name__)


class Encoded(Protocol):
    """What a model's `encode` returns; see `vidtok`."""

    @property
    def latent(self) -> Tensor: ...  # noqa: D102
    @property
    def indices(self) -> Tensor | None: ...  # noqa: D102
    @property
    def mean(self) -> Tensor | None: ...  # noqa: D102
    @property
    def logvar(self) -> Tensor | None: ...  # noqa: D102


class EncodeStream(Protocol):
    """What a model's `encode_stream` returns; see `vidtok`."""

    def push(self, video: Tensor) -> Encoded | None:
        """Take in frames [B, 3, n, H, W]; return what they complete."""


class Model(DecodingModel, Protocol):
    """The part of a `vidtok` model that a job needs."""

    def encode(self, video: Tensor) -> Encoded:
        """Encode `video` [B, 3, T, H, W] in [-1, 1]."""

    def encode_stream(self, num_frames: int, chunk_frames: int) -> EncodeStream:
        """Return an encoder of a clip that comes piece by piece."""


class ClipEncoder:
    """Encodes clips into the cells of one `TokenizerColumn`.

    Args:
        model: in eval mode, on `device`, in the dtype that it computes in.
        column: what the cells are.
        batch: B.
        device: where the model is.
    """

    def __init__(
        self,
        model: Model,
        column: TokenizerColumn,
        *,
        batch: int,
        device: str = "cpu",
    ) -> None:
        self.column = column
        self._model = model
        self._batch = batch
        self._device = torch.device(device)

    def __call__(self, frames: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        """Return the cells of N clips, and which of the clips are finite throughout.

        Args:
            frames: [N, T, H, W, 3] in [0, 255], uint8 or float32; N of any size.

        Returns:
            For each of `column.cell_columns` an array [N, …] in the stored dtype; and [N] bool.
        """
        calls = [
            self._call(frames[start : start + self._batch], self._batch)
            for start in range(0, len(frames), self._batch)
        ]
        cells = {
            name: np.concatenate([call[0][name] for call in calls])
            for name in self.column.cell_columns
        }
        return cells, np.concatenate([call[1] for call in calls])

    def psnr(self, row: Mapping[str, Any], frames: NDArray[Any]) -> float:
        """Return how well a row's cells, decoded back, match the frames of its clip, in dB.

        Args:
            row: the columns of one clip, as they are stored.
            frames: [T, H, W, 3] in [0, 255], which were encoded.
        """
        with torch.inference_mode():
            decoded = decode_cells(self._model, self.column, row, len(frames))
        return clip_psnr(eight_bits(frames), decoded)

    def whole_clip(self, num_frames: int, chunk_frames: int) -> "WholeClip":
        """Begin a clip whose frames come piece by piece.

        Raises:
            ValueError: the model takes none, or not in such chunks.
        """
        return WholeClip(self, self._model.encode_stream(num_frames, chunk_frames))

    def _call(
        self, frames: NDArray[Any], batch: int
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        """Run one batch; what does not fit the GPU's memory is run in halves of the shape."""
        try:
            with torch.inference_mode():
                encoded = self._model.encode(self._video(frames, batch))
                return self._cells(encoded, len(frames))
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        torch.cuda.empty_cache()
        half = -(-batch // 2)
        _log.warning("%s: no memory for %d clips; trying %d", self.column.name, batch, half)
        first = self._call(frames[:half], half)
        if len(frames) <= half:
            return first
        second = self._call(frames[half:], half)
        cells = {name: np.concatenate([first[0][name], second[0][name]]) for name in first[0]}
        return cells, np.concatenate([first[1], second[1]])

    def _video(self, frames: NDArray[Any], batch: int) -> Tensor:
        """Return [B, 3, T, H, W] in [-1, 1]: the reference's (x / 255 - 0.5) / 0.5, in float32.

        A view: in memory the channels stay last, as the network wants them.
        """
        filled = np.zeros((batch, *frames.shape[1:]), frames.dtype)
        filled[: len(frames)] = frames
        video = torch.from_numpy(filled)
        if self._device.type == "cuda":
            # Pinned memory is what lets the copy run beside the other call's computing.
            video = video.pin_memory().to(self._device, non_blocking=True)
        video = video.to(torch.float32).div_(255).sub_(0.5).div_(0.5)
        return video.permute(0, 4, 1, 2, 3)

    def _cells(
        self, encoded: Encoded, num_clips: int
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        column = self.column
        finite = _finite(encoded.latent[:num_clips])
        if column.kind == "fsq":
            assert encoded.indices is not None
            assert column.codebook_size is not None
            indices: NDArray[np.int32] = encoded.indices[:num_clips].cpu().numpy()
            inside: NDArray[np.bool_] = (indices >= 0) & (indices < column.codebook_size)
            # An index of a clip that is not finite means nothing; of any other it is ours to be
            # right about.
            assert inside[finite].all(), "a code index lies outside the codebook"
            return {column.name: np.where(inside, indices, 0).astype(column.stored_dtype)}, finite
        cells = {}
        for name, value in zip(column.cell_columns, (encoded.mean, encoded.logvar), strict=False):
            assert value is not None
            stored = value[:num_clips].to(getattr(torch, column.dtype))
            finite &= _finite(stored)  # float16 overflows where float32 does not
            cells[name] = from_tensor(stored, column)
        return cells, finite


class WholeClip:
    """One clip under way: frames in, its cells at the end. Made by `ClipEncoder.whole_clip`."""

    def __init__(self, encoder: ClipEncoder, stream: EncodeStream) -> None:
        self._encoder = encoder
        self._stream = stream
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._finite = np.ones(1, np.bool_)

    def push(self, frames: NDArray[Any]) -> None:
        """Take in the next frames [n, H, W, 3] in [0, 255]."""
        with torch.inference_mode():
            encoded = self._stream.push(self._encoder._video(frames[np.newaxis], 1))
            if encoded is not None:
                cells, finite = self._encoder._cells(encoded, 1)
                self._parts.append(cells)
                self._finite &= finite

    def cells(self) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        """Return what `ClipEncoder` does for one clip."""
        column = self._encoder.column
        time = 1 + column.axes.index("t")
        cells = {
            name: np.concatenate([part[name] for part in self._parts], time)
            for name in column.cell_columns
        }
        return cells, self._finite


@contextmanager
def job_arithmetic(threads: int) -> Iterator[None]:
    """Compute as the job's processes do: so many threads, and float32 that means float32."""
    before = torch.get_num_threads()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finite(values: Tensor) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = torch.isfinite(values).flatten(1).all(1).cpu().numpy()
    return finite
