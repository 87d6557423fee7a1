"""What counts as damage: the words of FFmpeg's log, and what a container promised but did not hold.

FFmpeg conceals: a broken slice is painted over, a lost picture is skipped, a file cut in half ends
early without an error. It says so only in its log. A corpus wants such a video out, not its
concealed pictures in, so every error that the decoder or the demuxer logs while frames are being
read ends the video, but for a few that real encoders provoke in pictures that are whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

Log = tuple[int, str, str]
"""FFmpeg's level, the name of who speaks, the message."""


ERROR = 16


HARMLESS = (
    "SEI type ",  # a caption or timing message of the wrong length; no pixels in it
    "mmco: unref short failure",  # asks to forget a picture that is already forgotten
)


NO_MEMORY = ("get_buffer() failed", "annot allocate memory", "ould not allocate")


TOO_LARGE = ("exceeds specified max pixel count",)


CUT_SHORT = ("partial file", "File ended prematurely", "moov atom not found")


@dataclass(frozen=True, slots=True)
class Damage:
    """A reason of the quarantine with the line for a person."""

    reason: str
    detail: str


def in_log(logs: Iterable[Log], speakers: Sequence[str]) -> Damage | None:
    """Return the first damage that the log tells of, or why the decoder could not go on.

    A want of memory is no damage, but decoders often report it as the damage that it causes; the
    log is where the two can be told apart. A size beyond the limit shows as both.

    Args:
        logs: what was logged since frames are being read.
        speakers: names of the decoder and the demuxer; others (the scaler, say) know nothing of
            damage.
    """
    lines = [(level, name, flat(message)) for level, name, message in logs]
    for words, reason in ((TOO_LARGE, "unsupported"), (NO_MEMORY, "decode_memory")):
        for _, _, text in lines:
            if any(part in text for part in words):
                return Damage(reason, text)
    for level, name, text in lines:
        if level > ERROR or name not in speakers or text.startswith(HARMLESS):
            continue
        reason = "truncated" if any(words in text for words in CUT_SHORT) else "corrupt"
        return Damage(reason, f"{name}: {text}")
    return None


def missing_packets(read: int, listed: int) -> Damage | None:
    """Compare the packets that came with those that the container's index lists.

    An MP4 index is exact and already knows of edit lists; the margin of two, or one in a hundred,
    is for the empty samples that some writers leave.
    """
    if read >= listed - max(2, listed // 100):
        return None
    return Damage("truncated", f"the index lists {listed} frames, the file holds {read}")


def missing_time(shown_s: Fraction, declared_s: Fraction) -> Damage | None:
    """Compare how long the frames lasted with the length that the header declares.

    Headers round, and count the longest track: the margin is half a second, or 2 % of a long video.
    """
    if shown_s >= declared_s - max(Fraction(1, 2), declared_s / 50):
        return None
    return Damage(
        "truncated",
        f"the header declares {float(declared_s):.2f} s, "
        f"the frames end after {float(shown_s):.2f} s",
    )


def flat(text: str) -> str:
    """Return the text without line breaks or runs of blanks, at most 300 characters."""
    return " ".join(text.split())[:300]
