from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode.pixels.geometry import Orientation, display_size, fit_frame

SIDES = st.integers(1, 5000)
BUCKETS = st.integers(1, 1024)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), [[1, 2], [3, 4], [5, 6]]),
        ((0, 1, 0, -1, 0, 0, 0, 0, 1), [[5, 3, 1], [6, 4, 2]]),  # a phone held upright
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), [[6, 5], [4, 3], [2, 1]]),
        ((0, -1, 0, 1, 0, 0, 0, 0, 1), [[2, 4, 6], [1, 3, 5]]),
        ((-1, 0, 0, 0, 1, 0, 0, 0, 1), [[2, 1], [4, 3], [6, 5]]),  # a mirror
        ((0, 1, 0, 1, 0, 0, 0, 0, 1), [[1, 3, 5], [2, 4, 6]]),
    ],
)
def test_the_display_matrix_moves_pixels_where_it_says(
    matrix: tuple[int, ...], expected: list[list[int]]
):
    """The expected picture is worked out from the matrix point by point, then compared by hand."""
    source = np.array([[1, 2], [3, 4], [5, 6]])
    moved = {}
    for row, column in np.ndindex(source.shape):
        x, y = column * matrix[0] + row * matrix[3], column * matrix[1] + row * matrix[4]
        moved[y, x] = int(source[row, column])
    rows, columns = sorted({y for y, _ in moved}), sorted({x for _, x in moved})
    assert [[moved[y, x] for x in columns] for y in rows] == expected

    assert turn(source, Orientation.from_matrix(matrix)).tolist() == expected


def turn(picture: np.ndarray, orientation: Orientation) -> np.ndarray:
    if orientation.transpose:
        picture = picture.T
    picture = picture[::-1] if orientation.flip_rows else picture
    return picture[:, ::-1] if orientation.flip_columns else picture


@pytest.mark.parametrize("degrees", [0, 90, 180, -180, -90, 88, 270])
def test_degrees_turn_counterclockwise(degrees: int):
    source = np.array([[1, 2], [3, 4], [5, 6]])
    expected = np.rot90(source, round(degrees / 90))
    assert np.array_equal(turn(source, Orientation.from_degrees(degrees)), expected)


def test_pixels_are_made_square_before_the_picture_is_turned():
    upright = Orientation(transpose=True, flip_columns=True)
    assert display_size(576, 720, Fraction(16, 15), Orientation()) == (576, 768)
    assert display_size(576, 720, Fraction(16, 15), upright) == (768, 576)
    assert display_size(10, 1, Fraction(1, 100), Orientation()) == (10, 1)


@given(SIDES, SIDES, BUCKETS)
def test_a_square_bucket_is_the_reference_rule(height: int, width: int, side: int):
    place = fit_frame((height, width), (side, side))
    short, long = sorted((height, width))
    expected = (side, int(side * long / short))
    resized = (place.resized_height, place.resized_width)
    assert resized == (expected if height <= width else expected[::-1])
    assert place.top == round((resized[0] - side) / 2)
    assert place.left == round((resized[1] - side) / 2)


@given(SIDES, SIDES, BUCKETS, BUCKETS)
def test_the_scaled_picture_covers_the_bucket_and_no_more(
    source_height: int, source_width: int, height: int, width: int
):
    place = fit_frame((source_height, source_width), (height, width))
    assert 0 <= place.top <= place.resized_height - height
    assert 0 <= place.left <= place.resized_width - width
    assert place.resized_height == height or place.resized_width == width
    top, left, crop_height, crop_width = place.crop
    assert top + crop_height <= source_height + 1e-6
    assert left + crop_width <= source_width + 1e-6


@given(SIDES, SIDES, BUCKETS, BUCKETS)
def test_whole_is_the_same_scale_without_the_crop(
    source_height: int, source_width: int, height: int, width: int
):
    display = source_height, source_width
    cropped, whole = (
        fit_frame(display, (height, width)),
        fit_frame(display, (height, width), whole=True),
    )
    assert (whole.height, whole.width) == (cropped.resized_height, cropped.resized_width)
    assert whole.crop == pytest.approx((0, 0, source_height, source_width))
    # A second picture of the same size that is fitted to what the first came to comes to the same.
    assert fit_frame(display, (whole.height, whole.width)) == whole


def test_the_crop_is_told_in_pixels_of_the_source():
    assert fit_frame((720, 1280), (256, 256)).crop == pytest.approx((0, 281.3, 720, 720.2), abs=0.6)
    assert fit_frame((100, 100), (50, 100)).crop == (25, 0, 50, 100)
