"""Which bucket a video gets: the rule by itself, and real videos cut by it."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode import ClipRule, DecodeLimits, Decoder, clip_rules
from pipeline.decode.buckets import best_size, for_picture, loss
from pipeline.decode.clip_assembly import AssembledClip
from pipeline.decode.clips import clips
from pipeline.decode.cutter import Cutter
from pipeline.decode.pixels.declared import Declared
from pipeline.decode.pixels.frame_converter import FrameConverter
from pipeline.decode.pixels.geometry import fit_frame
from pipeline.decode.sampling import DisplayedFrame
from pipeline.quarantine import QuarantineError
from tests.assets import BIKES, GOOD, VIDEOS, VIDTOK_EXAMPLE, GoodVideo
from tests.pipeline.decode.synthetic import counting, sample

SIDES = st.integers(1, 400)
SIZES = st.tuples(SIDES, SIDES)
TENTH = Fraction(1, 10)
SHAPES = ((17, 32, 32), (17, 24, 56), (9, 32, 32), (9, 56, 32), (1, 16, 16))
"""Of four videos in five, the kinds that differ: square, wide and upright; long and short."""


def rules(*shapes: tuple[int, int, int], short: str = "drop") -> tuple[ClipRule, ...]:
    buckets = [{"frames": t, "height": h, "width": w} for t, h, w in shapes]
    return clip_rules({"fps": 8.0, "short": short, "resize": "uint8", "buckets": buckets})


def cut_by(video: bytes, rules: Sequence[ClipRule]) -> list[AssembledClip]:
    return [clip for clip, _ in clips(io.BytesIO(video), rules, DecodeLimits(), lambda: None)]


@given(display=SIZES, size=SIZES)
def test_the_loss_is_what_the_crop_and_the_enlargement_lose(
    display: tuple[int, int], size: tuple[int, int]
) -> None:
    """Against the pixels that `fit` crops, whose sizes are rounded to whole ones."""
    place = fit_frame(display, size)
    cropped = 1 - size[0] * size[1] / (place.resized_height * place.resized_width)
    own = display[0] * display[1] * size[0] * size[1]
    own /= place.resized_height * place.resized_width
    made_up = max(0.0, 1 - own / (size[0] * size[1]))
    rounding = 1 / min(place.resized_height, place.resized_width)
    assert float(loss(display, size)) == pytest.approx(cropped + made_up, abs=2 * rounding)
    assert 0 <= loss(display, size) < 2


@given(display=SIZES, size=SIZES, factor=st.integers(1, 20))
def test_a_larger_copy_of_a_picture_loses_no_more(
    display: tuple[int, int], size: tuple[int, int], factor: int
) -> None:
    larger = (display[0] * factor, display[1] * factor)
    assert loss(larger, size) <= loss(display, size)
    if display[0] >= size[0] and display[1] >= size[1]:
        assert loss(larger, size) == loss(display, size), "only the aspect counts"


@given(size=SIZES, factor=st.integers(1, 9))
def test_the_same_aspect_loses_nothing_until_it_is_enlarged(
    size: tuple[int, int], factor: int
) -> None:
    multiple = (size[0] * factor, size[1] * factor)
    assert loss(multiple, size) == 0
    assert loss(size, multiple) == 1 - Fraction(1, factor**2)


@given(display=SIZES, sizes=st.lists(SIZES, min_size=1, max_size=6), data=st.data())
def test_the_best_size_is_the_first_that_loses_least(
    display: tuple[int, int], sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    best = best_size(display, sizes)
    losses = [loss(display, size) for size in sizes]
    assert sizes.index(best) == losses.index(min(losses))
    turned = [(width, height) for height, width in sizes]
    assert best_size(display[::-1], turned) == best[::-1], "no side is preferred"
    other = data.draw(st.permutations(sizes))
    assert loss(display, best_size(display, other)) == min(losses), "order only breaks ties"


@pytest.mark.parametrize(
    ("display", "size"),
    [
        ((720, 1280), (192, 320)),
        ((1280, 720), (320, 192)),
        ((480, 640), (192, 320)),  # a fifth is cropped, for the square a quarter
        ((800, 800), (256, 256)),
        ((2000, 2000), (256, 256)),  # 512×512 loses nothing either, and comes later
        ((200, 200), (256, 256)),  # enlarged by 1.28, not by 2.56
    ],
)
def test_sizes_that_a_person_would_choose(display: tuple[int, int], size: tuple[int, int]) -> None:
    sizes = [(256, 256), (192, 320), (320, 192), (512, 512)]
    assert best_size(display, sizes) == size


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True),
    num_frames=st.integers(1, 60),
)
def test_a_video_gets_the_longest_clips_that_it_fills(lengths: list[int], num_frames: int) -> None:
    wanted = rules(*((n, 8, 8) for n in lengths), *((n, 8, 16) for n in lengths))
    takes = sorted((n for n in lengths if n > 1 or len(lengths) == 1), reverse=True)
    for display, width in (((100, 100), 8), ((100, 190), 16)):
        chosen = for_picture(wanted, display)
        assert [(rule.frames, rule.width) for rule in chosen] == [(n, width) for n in takes]
    length = next((n for n in takes if n <= num_frames), takes[-1])
    found = cut_by(counting(num_frames, rate=8), wanted)
    assert {clip.own_frames + clip.padded_frames for clip in found[:-1]} <= {length}
    assert len(found) == -(-num_frames // length)


def own_size(asset: GoodVideo, num_frames: int) -> tuple[int, int]:
    """Return the size whose aspect is nearest to a video's; none here is enlarged."""
    sizes = [(h, w) for t, h, w in SHAPES if t == num_frames]
    aspect = asset.width / asset.height
    return min(sizes, key=lambda s: max(s[1] / s[0] / aspect, aspect / (s[1] / s[0])))


ROOMY = [asset for asset in GOOD if min(asset.height, asset.width) >= 64]


@pytest.mark.parametrize("asset", ROOMY, ids=lambda asset: asset.name)
def test_a_real_video_is_cut_as_its_bucket_alone_would_cut_it(asset: GoodVideo) -> None:
    length = 17 if asset.picks_at_8_fps >= 17 else 9
    height, width = own_size(asset, length)
    video = asset.path.read_bytes()
    for short in ("drop", "pad"):
        found = cut_by(video, rules(*SHAPES, short=short))
        alone = cut_by(video, rules((length, height, width), short=short))
        assert len(found) == len(alone) == -(-asset.picks_at_8_fps // length)
        for mine, other in zip(found, alone, strict=True):
            assert (mine.start_s, mine.end_s) == (other.start_s, other.end_s)
            assert (mine.fit, mine.padded_frames) == (other.fit, other.padded_frames)
            assert (mine.frames is None) == (other.frames is None)
            if mine.frames is not None and other.frames is not None:
                assert mine.frames.shape == (length, height, width, 3)
                np.testing.assert_array_equal(mine.frames, other.frames)


@given(
    num_frames=st.integers(1, 30),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=3, unique=True),
    short=st.sampled_from(["drop", "pad"]),
)
def test_no_frame_is_lost_or_doubled(num_frames: int, lengths: list[int], short: str) -> None:
    wanted = rules(*((n, 8, 8) for n in lengths), short=short)
    found = cut_by(counting(num_frames, rate=8), wanted)
    assert sum(clip.own_frames for clip in found) == num_frames
    assert [clip.index for clip in found] == list(range(len(found)))
    takes = [n for n in lengths if n > 1 or len(lengths) == 1]
    length = max((n for n in takes if n <= num_frames), default=min(takes))
    assert len(found) == -(-num_frames // length)
    levels: list[int] = []
    for clip in found:
        if clip.frames is not None:
            assert len(clip.frames) == length
            levels += clip.frames[: clip.own_frames, 4, 4, 0].tolist()
    whole = num_frames if short == "pad" else num_frames // length * length
    np.testing.assert_allclose(levels, range(whole), atol=1)


def test_a_video_that_changes_its_size_keeps_its_bucket() -> None:
    converter = FrameConverter("uint8", Declared(), 10_000)
    cutter = Cutter(rules((1, 16, 16), (1, 16, 32), (1, 32, 16)), converter, nominal_s=TENTH)
    frames = [VideoFrame(width, height, "rgb24") for width, height in ((80, 40), (40, 80))]
    shown = [DisplayedFrame(frame, n * TENTH, TENTH) for n, frame in enumerate(frames)]
    found = [clip.frames.shape for clip in cutter.cut(shown) if clip.frames is not None]
    assert found == [(1, 16, 32, 3)] * 2


def test_a_video_that_breaks_before_it_has_a_length_has_no_clips() -> None:
    whole = (VIDEOS / "broken/truncated_half.mp4").read_bytes()
    short = cut_until_broken(whole, rules((17, 32, 32), (9, 32, 32)))
    assert short
    assert {len(clip.frames) for clip in short if clip.frames is not None} == {17}
    assert cut_until_broken(whole, rules((200, 32, 32), (9, 32, 32))) == []


def cut_until_broken(video: bytes, rules: Sequence[ClipRule]) -> list[AssembledClip]:
    found: list[AssembledClip] = []
    before = clips(io.BytesIO(video), rules, DecodeLimits(), lambda: None)
    with pytest.raises(QuarantineError):
        found.extend(clip for clip, _ in before)
    return found


def test_through_the_child_and_in_any_order() -> None:
    def of(path: Path) -> list[tuple[int, ...]]:
        found = decoder.decode(sample(path.read_bytes(), path.stem), "u")
        return [frames.shape for _, frames in found if frames is not None]

    few = counting(12, rate=8)
    with Decoder(rules(*SHAPES)) as decoder:
        assert of(BIKES.path) == [(17, 24, 56, 3)] * 4
        assert of(VIDTOK_EXAMPLE.path) == [(17, 32, 32, 3)] * 2
        made = decoder.decode(sample(few), "u")
        assert [None if f is None else f.shape for _, f in made] == [(9, 32, 32, 3), None]
        assert of(BIKES.path) == [(17, 24, 56, 3)] * 4
