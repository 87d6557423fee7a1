"""Cuts are found, and what only looks like one is not."""

from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decode.damage import DecodeFault
from pipeline.decode.sampling import DisplayedFrame
from pipeline.decode.shot_cuts import AHEAD, LumaPlanes, marked, marked_by_planes

Frames = NDArray[np.float64]
"""Frames `[T, 54, 96]` of luma in [0, 255]."""


def panorama(seed: int, width: int = 400) -> Frames:
    """A smooth random picture `[54, width]`, larger than a frame."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(20, 235, (6, width // 24 + 2))
    columns = np.linspace(0, points.shape[1] - 1.001, width)
    rows = np.linspace(0, 4.999, 54)
    left, top = columns.astype(int), rows.astype(int)[:, None]
    x, y = columns - left, (rows - rows.astype(int))[:, None]
    upper = points[top, left] * (1 - x) + points[top, left + 1] * x
    lower = points[top + 1, left] * (1 - x) + points[top + 1, left + 1] * x
    return np.asarray(upper * (1 - y) + lower * y)


def shot(seed: int, frames: int = 30, speed: float = 1.0) -> Frames:
    """A camera that pans over a picture at `speed` pixels a frame."""
    wide = panorama(seed)
    return np.stack([wide[:, (at := round(speed * n)) : at + 96] for n in range(frames)])


def fade(seed: int) -> Frames:
    light = np.r_[np.ones(20), np.linspace(1, 0, 12), np.linspace(0, 1, 12), np.ones(20)]
    return np.concatenate([shot(seed, 32), shot(seed + 50, 32)]) * light[:, None, None]


def dissolve(seed: int) -> Frames:
    share = np.linspace(0, 1, 12)[:, None, None]
    one, other = shot(seed, 32), shot(seed + 50, 32)
    return np.concatenate([one[:20], one[20:] * (1 - share) + other[:12] * share, other[12:]])


def flash(seed: int) -> Frames:
    frames = shot(seed, 50)
    for n, share in ((15, 1.0), (30, 0.8), (31, 0.8), (32, 0.4)):
        frames[n] += (255 - frames[n]) * share
    return frames


def whip_pan(seed: int) -> Frames:
    wide = panorama(seed)
    at = np.r_[np.zeros(20), np.linspace(0, 300, 12), np.full(20, 300)].astype(int)
    return np.stack([wide[:, x : x + 96] for x in at])


def still(seed: int) -> Frames:
    noise = np.random.default_rng(seed).normal(0, 4, (50, 54, 96))
    return shot(seed, 1).repeat(50, 0) + noise


def repeated(seed: int) -> Frames:
    return shot(seed, 30, speed=8).repeat(3, 0)[:90]


def planes(frames: Frames) -> list[NDArray[np.int16]]:
    means = frames.clip(0, 255).reshape(len(frames), 18, 3, 32, 3).mean((2, 4))
    return list((4 * means).round().astype(np.int16))


def displayed(n: int) -> DisplayedFrame[int]:
    return DisplayedFrame(n, Fraction(n, 25), Fraction(1, 25))


def cuts(frames: Frames, threshold: float = 3.0) -> list[int]:
    source = ((displayed(n), plane) for n, plane in enumerate(planes(frames)))
    found = list(marked_by_planes(source, threshold))
    assert [shown.frame for shown, _ in found] == list(range(len(frames)))
    assert found[0][1]  # the first frame begins the first shot
    return [shown.frame for shown, begins in found if begins][1:]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("speed", [0.0, 1.0, 4.0])
def test_cuts_are_found_where_they_are(seed: int, speed: float) -> None:
    lengths = [12, 3, 25, 40]
    shots = [shot(10 * seed + n, length, speed) for n, length in enumerate(lengths)]
    assert cuts(np.concatenate(shots)) == [12, 15, 40]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "kind",
    [fade, dissolve, flash, whip_pan, still, repeated],
    ids=lambda kind: kind.__name__,
)
def test_what_is_not_a_cut_is_not_found(kind: Callable[[int], Frames], seed: int) -> None:
    assert cuts(kind(seed)) == []
    # The same frames with a cut behind them: the measure is not blind.
    after = shot(seed + 100, 30)
    assert cuts(np.concatenate([kind(seed), after])) == [len(kind(seed))]


def test_a_cut_from_black_and_a_change_of_slides_are_found() -> None:
    slides = [shot(seed, 1).repeat(20, 0) for seed in range(3)]
    assert cuts(np.concatenate([np.zeros((5, 54, 96)), *slides])) == [5, 25, 45]


def test_a_threshold_decides() -> None:
    frames = np.concatenate([shot(1), shot(2)])
    assert cuts(frames, threshold=3.0) == [30]
    assert cuts(frames, threshold=1000.0) == []


def test_a_frame_is_held_only_if_it_can_begin_a_shot() -> None:
    read = 0
    source = planes(np.concatenate([shot(1), shot(2)]))

    def frames():
        nonlocal read
        for n, plane in enumerate(source):
            read = n + 1
            yield displayed(n), plane

    ahead = [read - shown.frame - 1 for shown, _ in marked_by_planes(frames(), 3.0)]
    assert max(ahead) == AHEAD
    assert ahead[:30] == [0] * 30
    assert ahead[45:] == [0] * 15


def test_damage_comes_after_all_frames_before_it() -> None:
    def frames():
        yield from ((displayed(n), plane) for n, plane in enumerate(planes(shots)))
        raise DecodeFault("corrupt", "damage")

    shots = np.concatenate([shot(1, 20), shot(2, 3)])
    found = []
    try:
        for shown, begins in marked_by_planes(frames(), 3.0):
            found.append((shown.frame, begins))
    except DecodeFault as error:
        found.append((error.reason, False))
    assert found.pop() == ("corrupt", False)
    assert [n for n, _ in found] == list(range(23))
    assert [n for n, begins in found if begins] == [0, 20]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le", "gray", "rgb24", "nv12", "gbrp"])
def test_planes_are_the_luma_of_any_pixel_format(pix_fmt: str) -> None:
    luma = panorama(3)[:, :96].round().astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(np.dstack([luma] * 3).repeat(4, 0).repeat(4, 1), "rgb24")
    frame = picture.reformat(format=pix_fmt)
    plane = LumaPlanes().plane(frame)
    assert plane.shape == (18, 32)
    # The range of the luma, limited or full, does not matter to differences; its structure does.
    [expected] = planes(luma[np.newaxis].astype(np.float64))
    assert np.corrcoef(plane.ravel(), expected.ravel())[0, 1] > 0.95


def test_frames_of_a_video_are_marked() -> None:
    scenes = np.concatenate([shot(1, 10), shot(2, 10)]).clip(0, 255).astype(np.uint8)
    frames = (
        DisplayedFrame(av.VideoFrame.from_ndarray(frame, "gray"), Fraction(n, 25), Fraction(1, 25))
        for n, frame in enumerate(scenes)
    )
    found = list(marked(frames, 3.0))
    assert [shown.start_s for shown, begins in found if begins] == [0, Fraction(10, 25)]
