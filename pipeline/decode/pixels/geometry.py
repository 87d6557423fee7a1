"""Where the pixels of a coded picture go: upright, square, covering the bucket, cropped or whole.

Pure arithmetic on sizes, in the order of a player: the sample aspect ratio stretches the width of
the picture as coded, then the display matrix turns it. The stretch is part of the one resize, so no
pixel is interpolated twice.
"""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """How a picture as coded is turned upright: transpose first, then flip.

    The eight values are all symmetries of a rectangle.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def from_matrix(cls, matrix: tuple[int, ...]) -> "Orientation":
        """Read a display matrix: nine integers in rows, `(a b u, c d v, x y w)`.

        It sends the point `(p, q)` to `(a·p + c·q, b·p + d·q)`; scale, shift and
        any tilt that is not a quarter turn are ignored: the nearest of the eight orientations is
        returned.
        """
        a, b, _, c, d = matrix[:5]
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(flip_rows=d < 0, flip_columns=a < 0)
        return cls(transpose=True, flip_rows=b < 0, flip_columns=c < 0)

    @classmethod
    def from_degrees(cls, counterclockwise: float) -> "Orientation":
        """Return the nearest quarter turn."""
        turns = round(counterclockwise / 90) % 4
        return (
            cls(),
            cls(transpose=True, flip_rows=True),
            cls(flip_rows=True, flip_columns=True),
            cls(transpose=True, flip_columns=True),
        )[turns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Scale and crop that bring a picture into its bucket, in upright pixels.

    `display_*` is the picture as displayed, `resized_*` its size after the one resize, `top` and
    `left` the corner of the bucket in that.
    """

    display_height: int
    display_width: int
    resized_height: int
    resized_width: int
    top: int
    left: int
    height: int
    width: int

    @property
    def crop(self) -> tuple[float, float, float, float]:
        """`(top, left, height, width)` of the bucket in pixels of the picture as displayed."""
        rows = self.display_height / self.resized_height
        columns = self.display_width / self.resized_width
        return self.top * rows, self.left * columns, self.height * rows, self.width * columns


def display_size(
    height: int, width: int, sample_aspect: Fraction, orientation: Orientation
) -> tuple[int, int]:
    """Return `(height, width)` of a picture as displayed: upright, with square pixels.

    As in every player, the height is kept and the width is scaled, to the nearest whole pixel.
    """
    squared = max(1, round(width * sample_aspect))
    return (squared, height) if orientation.transpose else (height, squared)


def fit_frame(display: tuple[int, int], bucket: tuple[int, int], *, whole: bool = False) -> Fit:
    """Scale a picture to the smallest size that covers the bucket, and crop around its centre.

    For a square bucket this is the reference's rule to the pixel (Resize of the shorter side with
    the longer rounded down, CenterCrop with halves rounded to even). For others the reference makes
    the shorter side as long as the bucket's *height* and fills the rest with black. Here the side
    that needs the larger scale decides, so no black is added.

    Args:
        display: `(height, width)` of the upright picture.
        bucket: `(height, width)` to fill.
        whole: crop nothing: the scaled picture, which covers the bucket, is the result.
    """
    (source_height, source_width), (height, width) = display, bucket
    if height * source_width >= width * source_height:
        resized_height, resized_width = height, height * source_width // source_height
    else:
        resized_height, resized_width = width * source_height // source_width, width
    if whole:
        height, width = resized_height, resized_width
    return Fit(
        display_height=source_height,
        display_width=source_width,
        resized_height=resized_height,
        resized_width=resized_width,
        top=round((resized_height - height) / 2),
        left=round((resized_width - width) / 2),
        height=height,
        width=width,
    )
