"""Text for people: sizes, durations, labelled lines, and outside text made visible."""

import json
import re
from typing import Any, Final

_LABEL_WIDTH: Final = 11
"""Width in characters of the first column of printed lines."""


_HIDDEN: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, marks of the direction of text, separators of lines, and lone surrogates."""


def visible(text: str) -> str:
    r"""Return one line of text with hidden characters escaped, such as `\x1b`, `\n` and `\u202e`.

    Names and messages come from files, tars and libraries. Such a character could move the cursor
    of a terminal, change the order of what is read, or begin a line. All other characters stay.
    """
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def json_text(value: Any) -> str:
    """Return plain values as indented JSON. Hidden characters are escaped, all others stay."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return _HIDDEN.sub(lambda m: m[0] if m[0] == "\n" else f"\\u{ord(m[0]):04x}", text)


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


def kept_of_decoded(kept_s: float, decoded_s: float) -> str:
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
