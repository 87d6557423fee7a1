"""Facts are what the header and the first picture say, and a broken file is quarantined."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.decode import ClipRule, Decoder
from pipeline.quarantine import QuarantineError
from pipeline.records import Sample, VideoFacts

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(ClipRule(frames=17, height=64, width=64, fps=8, short="drop")) as decoder:
        yield decoder


def sample(path: Path, *, is_image: bool = False) -> Sample:
    return Sample(key=path.name, video=str(path), video_name=path.name, is_image=is_image)


def test_the_facts_of_a_video(decoder: Decoder) -> None:
    facts = decoder.facts(sample(DATA / "videos/bikes.mp4"), "u")
    assert facts == VideoFacts(
        height=272, width=640, fps=25.0, length_s=10.0, codec="h264", has_sound=False
    )
    [first, *_] = decoder.decode(sample(DATA / "videos/bikes.mp4"), "u")
    clip = first[0]
    assert (clip.source_height, clip.source_width, clip.source_fps) == (272, 640, 25.0)


def test_a_container_that_declares_the_length_for_all_streams(decoder: Decoder) -> None:
    facts = decoder.facts(sample(DATA / "field/recorded.webm"), "u")
    assert (facts.codec, facts.length_s) == ("vp8", 6.0)


def test_the_size_of_an_image_is_that_of_the_upright_picture(
    decoder: Decoder, tmp_path: Path
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (80, 48)).save(tmp_path / "a.jpg", exif=turned)
    facts = decoder.facts(sample(tmp_path / "a.jpg", is_image=True), "u")
    assert facts == VideoFacts(height=80, width=48)


def test_a_broken_file_is_quarantined_and_the_process_serves_the_next(
    decoder: Decoder, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(QuarantineError, match="not_a_video"):
        decoder.facts(sample(tmp_path / "a.mp4"), "u")
    pid = decoder.pid
    assert decoder.facts(sample(DATA / "videos/hiker_tiny.mp4"), "u").height > 0
    assert decoder.pid == pid
