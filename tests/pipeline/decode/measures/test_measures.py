"""Measures against OpenCV, ImageHash and pictures whose measure is known because they are made."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.decode.measures.measures import MEASURES, ClipMeasures, measure
from pipeline.decode.measures.phash import phash
from tests.assets import BIKES, HIKER, VIDTOK_EXAMPLE
from tests.lazy import cv2

WEIGHTLESS = [name for name in MEASURES if name != "text_area"]

SIDE = 256
ROOM = 400
"""Side of the picture out of which moving windows are cut."""


def texture(seed: int = 0, side: int = ROOM, grain: int = 8) -> NDArray[np.float32]:
    """Return a smooth random picture `[side, side, 3]` with details of `grain` pixels."""
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0, 255, (side // grain, side // grain, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC), 0, 255)


def panned(
    picture: NDArray[np.float32], down: float, across: float, count: int = 5, side: int = SIDE
) -> NDArray[np.uint8]:
    """Return frames of a window that moves over a picture, so the picture moves as told."""
    start = (ROOM - side) / 2
    frames = []
    for n in range(count):
        shift = n - (count - 1) / 2
        matrix = np.array([[1, 0, shift * across - start], [0, 1, shift * down - start]])
        frames.append(cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_CUBIC))
    return np.rint(np.clip(np.stack(frames), 0, 255)).astype(np.uint8)


def frames_of(path: Path, every: int = 1, most: int = 40) -> NDArray[np.uint8]:
    """Return frames of a video, scaled to a square."""
    frames = []
    with av.open(str(path)) as video:
        for n, frame in enumerate(video.decode(video=0)):
            if n % every == 0:
                pixels = frame.to_ndarray(format="rgb24")
                frames.append(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
            if len(frames) == most:
                break
    return np.stack(frames)


def flow_percent(frames: NDArray[np.uint8]) -> float:
    """Return the mean length of OpenCV's dense optical flow, in percent of the side."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    speeds = []
    for one, two in pairwise(grey):
        flow = dis.calc(one, two, None)
        speeds.append(np.hypot(flow[..., 0], flow[..., 1]).mean())
    return float(100 * np.mean(speeds) / SIDE)


clips = st.builds(
    lambda seed, shape, low, high, dtype: (
        np.random.default_rng(seed).uniform(low, max(low, high), (*shape, 3)).astype(dtype)
    ),
    st.integers(0, 1 << 32),
    st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 70)),
    st.floats(0, 255),
    st.floats(0, 255),
    st.sampled_from([np.uint8, np.float32]),
)

BOUNDS = {
    "motion": (0, 100),
    "still": (0, 1),
    "luma": (0, 1),
    "contrast": (0, 0.5 + 1e-6),
    "blur": (0, 1),
    "border": (0, 1),
    "duplicates": (0, 1),
    "phash": (-(1 << 63), (1 << 63) - 1),
}


@settings(deadline=None, max_examples=60)
@given(clips)
def test_measures_are_within_their_bounds(frames: NDArray[Any]) -> None:
    values = measure(frames, WEIGHTLESS)
    assert list(values) == WEIGHTLESS == list(BOUNDS)
    for name, (low, high) in BOUNDS.items():
        assert low <= values[name] <= high, name
        assert isinstance(values[name], int if name == "phash" else float)
    assert values["duplicates"] <= values["still"]


@settings(deadline=None, max_examples=30)
@given(clips, st.integers(1, 4))
def test_copies_that_pad_a_clip_do_not_count(frames: NDArray[Any], copies: int) -> None:
    padded = np.concatenate([frames, *[frames[-1:]] * copies])
    assert measure(padded, WEIGHTLESS, len(frames)) == measure(frames, WEIGHTLESS)
    assert measure(padded, ["duplicates"])["duplicates"] > 0


@settings(deadline=None, max_examples=30)
@given(clips)
def test_a_clip_backwards_or_mirrored_keeps_its_measures(frames: NDArray[Any]) -> None:
    names = ["still", "luma", "contrast", "border", "duplicates"]
    expected = pytest.approx(measure(frames, names), rel=1e-4, abs=1e-5)
    assert measure(frames[::-1], names) == expected
    k = max(1, min(frames.shape[1:3]) // 64)
    if not frames.shape[2] % k:
        assert measure(frames[:, :, ::-1], names) == expected


def test_a_single_frame_has_no_motion() -> None:
    values = measure(texture(side=SIDE)[np.newaxis], WEIGHTLESS)
    assert (values["motion"], values["still"], values["duplicates"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("down", "across"), [(0, 1), (0.5, 0.5), (2, 0), (3, 4), (0, 8), (-6, 8), (12, 0), (0, -16)]
)
def test_motion_of_a_pan_is_its_displacement(down: float, across: float) -> None:
    expected = 100 * np.hypot(down, across) / SIDE
    for seed, grain in enumerate((8, 16, 32)):
        frames = panned(texture(seed, grain=grain), down, across)
        assert measure(frames, ["motion"])["motion"] == pytest.approx(expected, rel=0.2)


def test_motion_does_not_depend_on_the_size_of_the_clip() -> None:
    frames = panned(texture(grain=16), 4, 4)
    expected = measure(frames, ["motion"])["motion"]
    half = np.stack([cv2.resize(f, (128, 128), interpolation=cv2.INTER_AREA) for f in frames])
    double = np.stack([cv2.resize(f, (512, 512), interpolation=cv2.INTER_CUBIC) for f in frames])
    assert measure(half, ["motion"])["motion"] == pytest.approx(expected, rel=0.1)
    assert measure(double, ["motion"])["motion"] == pytest.approx(expected, rel=0.1)


def test_motion_of_noise_and_of_changing_light_is_small() -> None:
    still = panned(texture(), 0, 0)
    assert measure(still, ["motion"])["motion"] == 0
    rng = np.random.default_rng(1)
    noisy = np.clip(still + rng.normal(0, 4, still.shape), 0, 255).astype(np.uint8)
    assert measure(noisy, ["motion"])["motion"] < 0.1
    flat = np.full_like(still, 128)
    flat += np.arange(len(flat), dtype=np.uint8)[:, None, None, None]
    assert measure(flat, ["motion"])["motion"] < 0.01


def test_motion_agrees_with_optical_flow() -> None:
    """Within a factor of 2.5 above what counts as still, and in the same order."""
    ours, theirs = [], []
    for path, every in [
        (VIDTOK_EXAMPLE.path, 1),
        (HIKER.path, 1),
        (BIKES.path, 1),
        (HIKER.path, 3),
        (BIKES.path, 2),
    ]:
        frames = frames_of(path, every, 9)
        ours.append(measure(frames, ["motion"])["motion"])
        theirs.append(flow_percent(frames))
    assert np.argsort(ours).tolist() == np.argsort(theirs).tolist()
    for own, other in zip(ours, theirs, strict=True):
        assert other / 2.5 - 0.02 < own < other * 2.5 + 0.02


def test_motion_sees_an_object_before_a_still_background() -> None:
    background = panned(texture(1), 0, 0, 5)
    moving = panned(texture(2), 0, 6, 5)
    moving[:, :128] = background[:, :128]
    half = measure(moving, ["motion"])["motion"]
    assert half == pytest.approx(0.5 * 100 * 6 / SIDE, rel=0.25)


@pytest.mark.parametrize("pattern", ["aab", "aaab", "abab", "aabbcc", "abcd", "aaaa"])
def test_duplicates_are_repeated_pictures(pattern: str) -> None:
    pictures = {name: panned(texture(ord(name)), 0, 0, 1)[0] for name in set(pattern)}
    values = measure(np.stack([pictures[name] for name in pattern]), ["still", "duplicates"])
    pairs = list(pairwise(pattern))
    share = pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert values["still"] == values["duplicates"] == share


def test_still_forgives_a_small_change_that_duplicates_see() -> None:
    frames = panned(texture(), 0, 0, 3)
    frames[1, :16, :16] ^= 128
    assert measure(frames, ["still", "duplicates"]) == {"still": 1.0, "duplicates": 0.0}
    frames[1, :128] ^= 128
    assert measure(frames, ["still"]) == {"still": 0.0}


def test_luma_and_contrast_are_those_of_opencv() -> None:
    frames = frames_of(BIKES.path, 20, 5)
    grey = [cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY) for frame in frames]
    small = [cv2.resize(one, (64, 64), interpolation=cv2.INTER_AREA) for one in grey]
    assert ClipMeasures(frames).plane == pytest.approx(np.stack(small), abs=0.02)
    values = measure(frames, ["luma", "contrast"])
    assert values["luma"] == pytest.approx(np.mean(grey) / 255, abs=1e-4)
    assert values["contrast"] == pytest.approx(np.mean([s.std() for s in small]) / 255, abs=1e-4)


def test_float32_pixels_measure_as_uint8_pixels_do() -> None:
    frames = frames_of(HIKER.path, 3, 5)
    assert measure(frames.astype(np.float32), WEIGHTLESS) == measure(frames, WEIGHTLESS)


def test_blur_is_made_of_the_laplacian_of_opencv() -> None:
    frames = frames_of(BIKES.path, 20, 9)
    variances = []
    for n in (2, 6):
        grey = cv2.cvtColor(frames[n].astype(np.float32), cv2.COLOR_RGB2GRAY)
        variances.append(cv2.Laplacian(grey, cv2.CV_32F)[1:-1, 1:-1].var())
    expected = 100 / (100 + np.mean(variances))
    assert measure(frames, ["blur"])["blur"] == pytest.approx(expected, rel=1e-4)


def test_blur_rises_as_a_picture_loses_detail() -> None:
    sharp = panned(texture(grain=2), 0, 0, 1)[0]
    blurred = [sharp, *(cv2.GaussianBlur(sharp, (0, 0), sigma) for sigma in (1, 2, 4, 8))]
    values = [measure(frame[np.newaxis], ["blur"])["blur"] for frame in blurred]
    assert values == sorted(values)
    assert values[0] < 0.1
    assert values[-1] > 0.9


@pytest.mark.parametrize(
    ("top", "bottom", "left", "right"),
    [
        (0, 0, 0, 0),
        (32, 32, 0, 0),
        (0, 0, 40, 40),
        (16, 0, 0, 8),
        (32, 32, 40, 40),
        (128, 128, 0, 0),
    ],
)
@pytest.mark.parametrize("level", [0, 16, 255])
def test_border_is_the_area_of_bars(
    top: int, bottom: int, left: int, right: int, level: int
) -> None:
    frames = panned(texture(), 2, 2, 3)
    rng = np.random.default_rng(0)
    bars = np.clip(level + rng.integers(-1, 2, frames.shape), 0, 255).astype(np.uint8)
    inner = slice(None), slice(top, SIDE - bottom), slice(left, SIDE - right)
    bars[inner] = frames[inner]
    share = 1 - (SIDE - top - bottom) * (SIDE - left - right) / SIDE**2
    assert measure(bars, ["border"])["border"] == pytest.approx(share, abs=1e-6)


def test_a_flat_band_within_the_picture_is_not_a_border() -> None:
    frames = panned(texture(), 0, 0, 2)
    frames[:, 100:140] = 0
    assert measure(frames, ["border"])["border"] == 0


def test_rows_that_change_over_time_are_not_a_border() -> None:
    frames = panned(texture(), 0, 0, 2)
    frames[:, :40] = np.array([0, 100], np.uint8)[:, None, None, None]
    assert measure(frames, ["border"])["border"] == 0


def as_int64(theirs: imagehash.ImageHash) -> int:
    value = int(str(theirs), 16)
    return value - (1 << 64) if value >> 63 else value


@pytest.mark.parametrize("path", [BIKES.path, HIKER.path, VIDTOK_EXAMPLE.path])
def test_phash_is_that_of_imagehash(path: Path) -> None:
    frames = frames_of(path, 9, 5)
    for frame in frames:
        assert phash(frame) == as_int64(imagehash.phash(Image.fromarray(frame)))
    assert measure(frames, ["phash"]) == {"phash": phash(frames[2])}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1 << 32), st.integers(8, 80), st.integers(8, 80))
def test_phash_is_that_of_imagehash_for_any_size(seed: int, height: int, width: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert phash(frame) == as_int64(imagehash.phash(Image.fromarray(frame)))
    assert phash(frame.astype(np.float32)) == phash(frame)


def distance(one: int, other: int) -> int:
    return ((one ^ other) & ((1 << 64) - 1)).bit_count()


@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_a_flat_picture_has_the_bit_of_its_mean_alone(level: int) -> None:
    frame = np.full((20, 30, 3), level, np.uint8)
    assert phash(frame) == as_int64(imagehash.phash(Image.fromarray(frame)))
    assert phash(frame) == (-(1 << 63) if level else 0)


def test_phash_is_near_for_copies_and_far_for_other_pictures() -> None:
    frames = [frames_of(path, 1, 1)[0] for path in (BIKES.path, HIKER.path, VIDTOK_EXAMPLE.path)]
    for frame in frames:
        smaller = cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA)
        coded = cv2.imdecode(cv2.imencode(".jpg", frame)[1], cv2.IMREAD_COLOR)
        for copy in (smaller, coded, cv2.GaussianBlur(frame, (0, 0), 1), frame // 2 + 40):
            assert distance(phash(frame), phash(copy)) <= 6
    for n, frame in enumerate(frames):
        for other in frames[n + 1 :]:
            assert distance(phash(frame), phash(other)) > 16
