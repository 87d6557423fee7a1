"""One training clip from a segment: random frames, rate, place, scale and direction."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.clip_source import ClipSourceConfig
from pipeline.training.frames import choose_frames
from pipeline.training.segments import Segment


def draw_window(segment: Segment, config: ClipSourceConfig, rng: random.Random) -> Tensor:
    """Return a clip, uint8 `[T, H, W, 3]`; a video that has too few frames holds its last one.

    Args:
        segment: what to cut from.
        config: the clip's shape, and how it may vary.
        rng: decides everything else.
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
