"""The shapes stay in the picture and move as they are said to."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.moving_shapes import bounced, film


@given(st.floats(-1e3, 1e3), st.floats(0, 50), st.floats(1, 50), st.floats(0, 5))
def test_what_bounces_stays_between_the_ends_and_is_never_faster(
    place: float, low: float, space: float, step: float
) -> None:
    here, there = bounced(place, low, low + space), bounced(place + step, low, low + space)
    assert low <= here <= low + space
    assert abs(there - here) <= step + 1e-9


def test_it_flies_straight_between_the_ends_and_back_from_them() -> None:
    places = [bounced(place, 10, 54) for place in (10, 32, 54, 58, 98, 102, 6)]
    assert places == [10, 32, 54, 50, 10, 14, 14]


@pytest.mark.parametrize("seed", range(8))
def test_one_shape_of_one_colour_moves(seed: int) -> None:
    frames = np.stack(film(17, Random(seed)))
    assert frames.shape == (17, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, film(17, Random(seed)))
    inside = (frames != frames[0, 0, 0]).any(-1)  # the ground shows in the first corner
    # Discs and squares with sides of 18 to 26 pixels.
    assert ((inside.sum((1, 2)) > 200) & (inside.sum((1, 2)) < 800)).all()
    y, x = np.mgrid[:64, :64]
    centres = np.array(
        [[(shape * axis).sum() / shape.sum() for axis in (y, x)] for shape in inside]
    )
    steps = abs(np.diff(centres, axis=0))
    assert steps.max() < 3.5
    assert steps.mean() > 0.7
