"""Writes frames as a video file for people to look at."""

from fractions import Fraction
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

_QUALITY: Final = {"crf": "12", "preset": "fast"}
"""Of H.264: no difference that an eye sees, where a tokenizer's is to be seen."""


def write_video(path: str, frames: NDArray[np.uint8], fps: float) -> None:
    """Write an MP4 that every player opens, replacing what is there.

    Args:
        path: on a local disk.
        frames: [T, H, W, 3]; of an odd height or width the last line is left out.
        fps: frames per second, above 0.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = (size - size % 2 for size in frames.shape[1:3])
    with av.open(path, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=_QUALITY)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), "rgb24"
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
