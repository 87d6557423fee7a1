"""Side-by-side pictures: frames of the original and of every candidate, and their errors.

Each candidate has one row: on the left evenly spaced frames of the clip, on the right the error of
the same frames, |original - reconstruction| amplified four times.
"""

import io
from dataclasses import dataclass
from typing import Any, Final

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vidtok.evaluation.fidelity import psnr

COLUMNS: Final = 3


AMPLIFICATION: Final = 4


_GAP: Final = 6


_TEXT: Final = 15


_LINE: Final = 24


@dataclass(frozen=True, slots=True)
class Strip:
    """One row: a clip `[1, 3, T, H, W]` in [-1, 1] and its original; None: it is the original."""

    label: str
    video: Tensor
    original: Tensor | None = None


def draw(strips: list[Strip]) -> bytes:
    """Return the picture of some strips as PNG."""
    *_, height, width = strips[0].video.shape
    cell = width + _GAP
    row_height = _LINE + height + _GAP
    size = (2 * COLUMNS * cell + 3 * _GAP, _LINE + len(strips) * row_height + _GAP)
    picture = Image.new("RGB", size, "white")
    text = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_TEXT)
    right = COLUMNS * cell + 2 * _GAP
    title = f"error, amplified {AMPLIFICATION} times"
    text.text((right, _GAP // 2), title, fill="black", font=font)
    for row, strip in enumerate(strips):
        top = _LINE + row * row_height
        text.text((_GAP, top), _label(strip), fill="black", font=font)
        for column, frame in enumerate(_moments(strip.video.shape[2])):
            shown = _pixels((strip.video[0, :, frame].clamp(-1, 1) + 1) / 2)
            picture.paste(shown, (_GAP + column * cell, top + _LINE))
            if strip.original is not None:
                picture.paste(_error(strip, frame), (right + column * cell, top + _LINE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _label(strip: Strip) -> str:
    if strip.original is None:
        return f"{strip.label}, {strip.video.shape[2]} frames"
    x, y = ((clip[0].clamp(-1, 1) + 1) / 2 for clip in (strip.original, strip.video))
    mean = float(psnr(x.transpose(0, 1), y.transpose(0, 1)).mean())
    return f"{strip.label}: {mean:.2f} dB"


def _moments(length: int) -> list[int]:
    return torch.linspace(0, length - 1, min(COLUMNS, length)).round().int().tolist()


def _error(strip: Strip, frame: int) -> Any:
    assert strip.original is not None
    difference = strip.video[0, :, frame].clamp(-1, 1) - strip.original[0, :, frame]
    return _pixels((difference.abs() / 2 * AMPLIFICATION).clamp(0, 1))


def _pixels(frame: Tensor) -> Any:
    """Return an image of `[3, H, W]` in [0, 1]."""
    return Image.fromarray((frame * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
