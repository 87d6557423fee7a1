"""Durations, sizes and labelled lines as text for people."""

from typing import Final

_LABEL_WIDTH: Final = 11
"""Width in characters of the first column of printed lines."""


def labelled(label: str, text: object) -> str:
    """Return one printed line: a label in the first column, then a text."""
    return f"{label:<{_LABEL_WIDTH}}{text}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return `1 unit`, `2 units`: a number and its noun.

    Args:
        count: number.
        noun: noun in the singular.
        plural: its plural; empty adds an s.
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def format_duration(seconds: float) -> str:
    """Return `12.3 s`, or `0:02:05` from one minute on."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def footage(kept_s: float, decoded_s: float) -> str:
    """Return `1.0 s kept of 2.0 s decoded (50.0%)`."""
    share = f" ({kept_s / decoded_s:.1%})" if decoded_s else ""
    return f"{format_duration(kept_s)} kept of {format_duration(decoded_s)} decoded{share}"


def format_bytes(count: float) -> str:
    """Return a size in B, kB, MB, GB or TB, which are powers of 1000."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
