"""Choice of a video's clip shapes: the size of the picture, and the number of frames.

The rules differ in their shape and rate. Their order is that of the settings and breaks ties. The
best bucket is found in two steps:

1. Frames: the most that the video fills, counted as the rule samples them. A video that fills no
   bucket gets the shortest, and `short` decides. Buckets of one frame are for images: videos get
   another length if there is one.
2. Size: of the buckets of that length, the one in which the first frame of the video loses least.

With `every_bucket` a video gets every bucket that it fills: whose frames it has, and whose picture
is not larger than its own. If its picture is smaller than all, it gets of each length the size in
which it loses least. If it has too few frames for all, it gets the shortest length.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from pipeline.decode.clip_rule import ClipRule


def clip_rules(clip: Mapping[str, Any]) -> tuple[ClipRule, ...]:
    """Return the rules of a dataset's `identity.clip`, one for each rate and bucket.

    A whole video is decoded in pieces of `chunk_frames`; the last is padded with copies.
    """
    elsewhere = ("buckets", "fps", "filter")  # the decode stage applies the filter
    shared = {name: value for name, value in clip.items() if name not in elsewhere}
    if shared.pop("whole", False):
        shared |= {"frames": shared.pop("chunk_frames"), "short": "pad"}
    several = isinstance(clip["fps"], list)
    return tuple(
        ClipRule(**shared, **shape, fps=fps, names_fps=several)
        for fps in (clip["fps"] if several else [clip["fps"]])
        for shape in clip.get("buckets", ({},))
    )


def for_picture(rules: Sequence[ClipRule], display: tuple[int, int]) -> tuple[ClipRule, ...]:
    """Return the rules of one rate that a video can get by its picture, the longest first.

    Without `every_bucket` they have different lengths, of which the video gets one.

    Args:
        rules: of all buckets.
        display: `(height, width)` of the upright picture with square pixels.
    """
    lengths = {rule.frames for rule in rules}
    rules = [rule for rule in rules if rule.frames > 1 or lengths == {1}]
    filled = [rule for rule in rules if rule.every_bucket and covers(display, rule)]
    best = [
        best_rule(display, [rule for rule in rules if rule.frames == length])
        for length in lengths
        if any(rule.frames == length for rule in rules)
    ]
    return tuple(sorted(filled or best, key=lambda rule: -rule.frames))


def for_image(rules: Sequence[ClipRule], display: tuple[int, int]) -> tuple[ClipRule, ...]:
    """Return the rules that an image gets by its picture: each has one frame, and another size."""
    sizes: dict[tuple[int, int], ClipRule] = {}
    for rule in rules:
        if rule.frames == 1:
            sizes.setdefault((rule.height, rule.width), rule)
    return for_picture(tuple(sizes.values()), display)


def shortest(rules: Sequence[ClipRule]) -> int:
    """Return the number of frames that a video needs for a clip."""
    lengths = {rule.frames for rule in rules}
    return min(lengths - {1} or lengths)


def covers(display: tuple[int, int], rule: ClipRule) -> bool:
    """Return whether a picture fills a rule's size without being enlarged."""
    return display[0] >= rule.height and display[1] >= rule.width


def best_rule(display: tuple[int, int], rules: Sequence[ClipRule]) -> ClipRule:
    """Return the rule in whose size a picture loses least; the first of equal ones."""
    size = best_size(display, [(rule.height, rule.width) for rule in rules])
    return next(rule for rule in rules if (rule.height, rule.width) == size)


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
