"""One training clip from a segment: random frames, rate, position, scale and direction."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.clip_config import ClipSourceConfig
from pipeline.training.segments import Segment


def choose_frames(
    total: int, fps: float, count: int, sample_fps: float, start: int | random.Random
) -> list[int]:
    """Return the frames of one window, `min(count, total)` of them, in order.

    The step is the source's rate divided by `sample_fps`, rounded to whole frames and at least 1.
    Where the window does not fit, the steps shrink until it does: the frame rate rises, and no
    frame is repeated.

    Args:
        total: number of frames of the video.
        fps: frames per second of the video.
        count: number of frames wanted.
        sample_fps: frames per second wanted; a rate above `fps` takes every frame.
        start: the first frame, or a generator that draws it from all positions where the window
            fits.
    """
    num = min(count, total)
    span = (num - 1) * max(1, round(fps / sample_fps)) + 1
    if isinstance(start, random.Random):
        start = start.randint(0, max(0, total - span - 1))
    frames: list[int] = np.linspace(start, min(total - 1, start + span), num).astype(int).tolist()
    return frames


def draw_window(segment: Segment, config: ClipSourceConfig, rng: random.Random) -> Tensor:
    """Return a clip, uint8 `[T, H, W, 3]`; if the video is too short, its last frame is repeated.

    Args:
        segment: the segment that the clip is cut from.
        config: the clip's shape, and the ranges of what is random.
        rng: draws everything that is random.
    """
    total, picture_height, picture_width, _ = segment.frames.shape
    chosen = choose_frames(total, segment.fps, config.frames, rng.choice(config.fps), rng)
    chosen += chosen[-1:] * (config.frames - len(chosen))
    limit = min(picture_height / config.height, picture_width / config.width)
    zoom = min(1 / rng.uniform(config.min_scale, 1), limit)
    height, width = round(config.height * zoom), round(config.width * zoom)
    top = rng.randint(0, picture_height - height)
    left = rng.randint(0, picture_width - width)
    clip = torch.from_numpy(segment.frames[chosen, top : top + height, left : left + width])
    if config.flip and rng.random() < 0.5:
        clip = clip.flip(2)
    if (height, width) == (config.height, config.width):
        return clip
    planes = F.interpolate(
        clip.permute(0, 3, 1, 2),
        size=(config.height, config.width),
        mode="bilinear",
        antialias=True,
    )
    return planes.permute(0, 2, 3, 1).contiguous()
