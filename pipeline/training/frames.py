"""Which frames of a video a training window takes: the rule that the released models were made by.

Pure arithmetic on counts and rates, after the public VidTok code, with two of its habits kept on
purpose: frame rates are met in whole steps of the source, and the last step is one frame longer.
"""

import random

import numpy as np


def choose_frames(
    total: int, fps: float, count: int, sample_fps: float, start: int | random.Random
) -> list[int]:
    """Return the frames of one window, `min(count, total)` of them, in order.

    The step is the source's rate over the wanted one, rounded to whole frames and at least 1. Where
    the window does not fit, its steps shrink until it does: a higher frame rate rather than a
    frozen picture.

    Args:
        total: frames that there are.
        fps: their rate per second.
        count: frames wanted.
        sample_fps: rate wanted; one above `fps` takes every frame.
        start: the first frame, or what draws it uniformly from where the window fits.

    Raises:
        ValueError: a count or a rate is not positive, or `start` lies outside the video.
    """
    if total < 1 or count < 1:
        raise ValueError(f"total = {total}, count = {count}: a window has at least one frame")
    if not (fps > 0 and sample_fps > 0):
        raise ValueError(f"fps = {fps}, sample_fps = {sample_fps}: must be above 0")
    num = min(count, total)
    span = (num - 1) * max(1, round(fps / sample_fps)) + 1
    if isinstance(start, random.Random):
        start = start.randint(0, max(0, total - span - 1))
    if not 0 <= start < total:
        raise ValueError(f"start = {start}: the video has frames 0 to {total - 1}")
    frames: list[int] = np.linspace(start, min(total - 1, start + span), num).astype(int).tolist()
    return frames
