"""Whole videos as one clip each: decoded twice, piece by piece, and never all in memory.

How a v1.1 network begins depends on the number of frames, which is known only at a video's end. So
the decode stage decodes the video once, to learn its length and whether it is broken, and sends the
file on. The tokenize stage decodes it again and encodes the pieces as they arrive.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decode import Decoder
from pipeline.records import Bucket, Clip, Sample
from pipeline.stages.messages import BatchHeader, BatchRow
from pipeline.storage.files import read_file

if TYPE_CHECKING:
    from pipeline.tokenizers.encoder import (
        ClipEncoder,  # with torch, which decode actors do without
    )


Cells = dict[str, NDArray[Any]]


def whole_clip(decoder: Decoder, sample: Sample, unit: str) -> tuple[Clip, Bucket] | None:
    """Return the one clip of a sample, and its bucket; None if the sample has no frame.

    Args:
        decoder: with rules that cut a video into pieces and pad the last one.
        sample: a video.
        unit: name of the work unit that it belongs to.

    Raises:
        QuarantineError: as `Decoder.decode`.
    """
    first: Clip | None = None
    num_frames, end_s, size = 0, 0.0, (0, 0)
    for clip, frames in decoder.decode(sample, unit):
        assert frames is not None
        if first is None:
            first, size = clip, frames.shape[1:3]
        num_frames += clip.num_frames - clip.padded_frames
        end_s = clip.end_s
    if first is None:
        return None
    bucket = Bucket(frames=0, height=size[0], width=size[1])
    return replace(
        first, num_frames=num_frames, padded_frames=0, end_s=end_s, frame_times=()
    ), bucket


def video_row(sample: Sample, clip: Clip, bucket: Bucket, seq: int) -> BatchRow:
    """Return the batch row that carries a video's file, as uint8 [1, 1, 1, bytes, 1]."""
    data = sample.video if isinstance(sample.video, bytes) else read_file(sample.video)
    header = BatchHeader(unit=clip.unit, seq=seq, bucket=bucket, clips=(clip,), span=sample.span)
    return BatchRow(header, np.frombuffer(data, np.uint8).reshape(1, 1, 1, -1, 1))


def sample_of(row: BatchRow) -> Sample:
    """Return the sample that a row of `video_row` carries."""
    [clip] = row.header.clips
    return Sample(key=clip.key, video=row.frames.tobytes(), video_name="", span=row.header.span)


def pieces(decoder: Decoder, sample: Sample, unit: str) -> Generator[NDArray[Any], None, None]:
    """Yield the frames [n, H, W, 3] of a video, without the copies that pad its last piece.

    Close it before the decoder takes another video.

    Raises:
        QuarantineError: as `Decoder.decode`.
    """
    for clip, frames in decoder.decode(sample, unit):
        assert frames is not None
        yield frames[: clip.num_frames - clip.padded_frames]


def whole_cells(
    encoders: Sequence["ClipEncoder"],
    frames: Iterator[NDArray[Any]],
    num_frames: int,
    chunk_frames: int,
) -> tuple[Cells, dict[str, NDArray[np.bool_]]]:
    """Encode a video with several tokenizers side by side.

    Args:
        encoders: encoders of v1.1 models.
        frames: pieces [n, H, W, 3] in [0, 255].
        num_frames: number of frames of all pieces.
        chunk_frames: number of frames that the networks get at a time.

    Returns:
        What `ClipEncoder` returns for one clip: cells [1, …] by column, and by tokenizer whether
        they are finite.

    Raises:
        ValueError: the pieces have more or fewer frames.
    """
    clips = [encoder.whole_clip(num_frames, chunk_frames) for encoder in encoders]
    seen = 0
    for piece in frames:
        seen += len(piece)
        for clip in clips:
            clip.push(piece)
    if seen != num_frames:
        raise ValueError(f"decoded {seen} frames, but the first decode found {num_frames}")
    cells: Cells = {}
    finite = {}
    for encoder, clip in zip(encoders, clips, strict=True):
        made, finite[encoder.column.name] = clip.cells()
        cells.update(made)
    return cells, finite
