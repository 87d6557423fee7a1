import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.decode import ClipRule, Decoder
from pipeline.decode.measures.text import text_area
from pipeline.records import Sample
from tests.pipeline.tokenized import VIDEOS


def with_text(side: int, letters: int) -> tuple[np.ndarray, float]:
    """A grey picture with a line of text, and the share of its area that the line's box has."""
    noise = np.random.default_rng(0).integers(90, 110, (side, side, 3), np.uint8)
    image = Image.fromarray(noise)
    draw = ImageDraw.Draw(image)
    place = (side // 10, side // 2)
    draw.text(place, "Hello world", fill=(255, 255, 255), font_size=letters)
    left, top, right, bottom = draw.textbbox(place, "Hello world", font_size=letters)
    return np.asarray(image), (right - left) * (bottom - top) / side**2


@pytest.mark.parametrize(("side", "letters"), [(256, 24), (256, 40), (512, 40)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_area_is_about_that_of_the_box(side: int, letters: int, dtype: type) -> None:
    picture, box = with_text(side, letters)
    assert box < text_area(picture.astype(dtype)) < 3 * box  # the detector leaves a margin


def test_pictures_without_text() -> None:
    assert text_area(np.zeros((64, 96, 3), np.uint8)) == 0
    assert text_area(with_text(256, 24)[0][:100]) == 0


def test_the_detector_is_not_the_video_s_memory() -> None:
    """The decoder process stays, though it keeps more than an eighth of the limit."""
    rule = ClipRule(
        frames=5, height=64, width=64, fps=2.0, short="drop", measure=("text_area", "luma")
    )
    sample = Sample(key="hiker", video=str(VIDEOS / "hiker_tiny.mp4"), video_name="hiker.mp4")
    with Decoder(rule, numbers={"text_area": "float32", "luma": "float32"}) as decoder:
        pids = []
        for _ in range(2):
            clips = [clip for clip, frames in decoder.decode(sample, "u") if frames is not None]
            assert all(0 <= clip.side["text_area"] <= 1 for clip in clips)
            assert clips
            pids.append(decoder.pid)
        assert pids[0] == pids[1] is not None
