"""Which of several clip shapes a video is cut to: first how many frames, then the picture's size.

Each video has one bucket, for all of its clips. The rules differ in their shape alone; their order
is that of the settings and breaks ties.

1. Frames: the most that the video fills, counted as the rule samples them. A video that fills none
   gets the fewest, and `short` decides. One frame is for pictures: as long as there is another
   length, no video gets it.
2. Size: of the buckets of that length, the one in which the first frame of the video loses least.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from pipeline.decode.clip_rule import ClipRule


def clip_rules(clip: Mapping[str, Any]) -> tuple[ClipRule, ...]:
    """Return the rules that `identity.clip` of a dataset stands for, one for each bucket.

    A whole video is decoded in pieces of `chunk_frames`; the copies in the last are not its own.
    """
    shared = {name: value for name, value in clip.items() if name != "buckets"}
    if shared.pop("whole", False):
        shared |= {"frames": shared.pop("chunk_frames"), "short": "pad"}
    return tuple(ClipRule(**shared, **shape) for shape in clip.get("buckets", ({},)))


def of_length(rules: Sequence[ClipRule], num_frames: int) -> tuple[ClipRule, ...]:
    """Return the rules of the length that a video of so many sampled frames is cut to."""
    lengths = {rule.frames for rule in rules}
    lengths = lengths - {1} or lengths
    length = max((n for n in lengths if n <= num_frames), default=min(lengths))
    return tuple(rule for rule in rules if rule.frames == length)


def longest(rules: Sequence[ClipRule]) -> tuple[ClipRule, ...]:
    """Return the rules of the length that a video is cut to which is long enough for all."""
    return of_length(rules, max(rule.frames for rule in rules))


def best_size(display: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the size in which a picture loses least; of equal ones the first.

    Args:
        display: `(height, width)` of the upright picture with square pixels.
        sizes: `(height, width)` to choose from.
    """
    return min(sizes, key=lambda size: loss(display, size))


def loss(display: tuple[int, int], size: tuple[int, int]) -> Fraction:
    """Return what scaling a picture to cover a size, and cropping it, loses, from 0 to below 2.

    With s the scale that makes height × width cover: the share of the picture's area that is
    cropped away, 1 - height · width / (s² · area); and if s is above 1, the share of the result's
    pixels that are made up, 1 - 1 / s². Exact, so that equal losses are ties.
    """
    scale = max(Fraction(want, have) for want, have in zip(size, display, strict=True))
    kept = Fraction(size[0] * size[1], display[0] * display[1]) / scale**2
    made_up = 1 - 1 / scale**2 if scale > 1 else Fraction(0)
    return 1 - kept + made_up
