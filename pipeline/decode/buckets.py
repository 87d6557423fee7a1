"""Choice of a video's clip shape: first the number of frames, then the size of the picture.

Each video has one bucket, for all of its clips. The rules differ only in their shape. Their order
is that of the settings and breaks ties.

1. Frames: the most that the video fills, counted as the rule samples them. A video that fills no
   bucket gets the shortest, and `short` decides. Buckets of one frame are for images: videos get
   another length if there is one.
2. Size: of the buckets of that length, the one in which the first frame of the video loses least.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from pipeline.decode.clip_rule import ClipRule


def clip_rules(clip: Mapping[str, Any]) -> tuple[ClipRule, ...]:
    """Return the rules of a dataset's `identity.clip`, one for each bucket.

    A whole video is decoded in pieces of `chunk_frames`; the last is padded with copies.
    """
    shared = {name: value for name, value in clip.items() if name != "buckets"}
    shared.pop("filter", None)  # the decode stage applies it
    if shared.pop("whole", False):
        shared |= {"frames": shared.pop("chunk_frames"), "short": "pad"}
    return tuple(ClipRule(**shared, **shape) for shape in clip.get("buckets", ({},)))


def of_length(rules: Sequence[ClipRule], num_frames: int) -> tuple[ClipRule, ...]:
    """Return the rules for a video of `num_frames` sampled frames; all have one length."""
    lengths = {rule.frames for rule in rules}
    lengths = lengths - {1} or lengths
    length = max((n for n in lengths if n <= num_frames), default=min(lengths))
    return tuple(rule for rule in rules if rule.frames == length)


def shortest(rules: Sequence[ClipRule]) -> int:
    """Return the number of frames that a video needs for a clip."""
    return of_length(rules, 0)[0].frames


def longest(rules: Sequence[ClipRule]) -> tuple[ClipRule, ...]:
    """Return the rules for a video that is long enough for every bucket."""
    return of_length(rules, max(rule.frames for rule in rules))


def best_size(display: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the size in which a picture loses least; the first of equal ones.

    Args:
        display: `(height, width)` of the upright picture with square pixels.
        sizes: `(height, width)` to choose from.
    """
    return min(sizes, key=lambda size: loss(display, size))


def loss(display: tuple[int, int], size: tuple[int, int]) -> Fraction:
    """Return what scaling a picture to cover a size, and cropping it, loses, from 0 to below 2.

    With s the scale at which the picture covers height × width: the share of the picture's area
    that is cropped, 1 - height · width / (s² · area), plus, if s is above 1, the share of the
    result's pixels that are interpolated, 1 - 1 / s². Exact, so equal losses are ties.
    """
    scale = max(Fraction(want, have) for want, have in zip(size, display, strict=True))
    kept = Fraction(size[0] * size[1], display[0] * display[1]) / scale**2
    made_up = 1 - 1 / scale**2 if scale > 1 else Fraction(0)
    return 1 - kept + made_up
