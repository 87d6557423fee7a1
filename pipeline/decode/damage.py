"""What counts as damage: words of FFmpeg's log.

FFmpeg conceals damage: it interpolates a broken slice, skips a lost picture, and ends a file that
is cut in half early without an error. Only its log tells. A corpus must not hold such pictures. So
every error that the decoder or the demuxer logs while frames are read ends the video, except a few
that real encoders cause in pictures without damage.
"""

from collections.abc import Iterable, Sequence

from pipeline.quarantine import QuarantineError

Log = tuple[int, str, str]
"""FFmpeg's level, the name of the part that logs, and the message."""


ERROR = 16


HARMLESS = (
    "SEI type ",  # a caption or timing message of the wrong length; no pixels in it
    "mmco: unref short failure",  # asks to forget a picture that is already forgotten
)


NO_MEMORY = ("get_buffer() failed", "annot allocate memory", "ould not allocate")


TOO_LARGE = ("exceeds specified max pixel count",)


CUT_SHORT = ("partial file", "File ended prematurely", "moov atom not found")


class DecodeFault(QuarantineError):
    """A video or image cannot be decoded; `reason` is one of `pipeline.quarantine.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__("decode", reason, detail)


def in_log(logs: Iterable[Log], speakers: Sequence[str]) -> DecodeFault | None:
    """Return the first damage in the log, or the reason why the decoder could not continue.

    Lack of memory is not damage, but decoders often report it as the damage that it causes. Only
    the log distinguishes the two. A size beyond the limit also shows as damage.

    Args:
        logs: messages since the first frame was requested.
        speakers: names of the decoder and the demuxer; other parts, such as the scaler, do not
            report damage.
    """
    lines = [(level, name, flat(message)) for level, name, message in logs]
    for words, reason in ((TOO_LARGE, "unsupported"), (NO_MEMORY, "decode_memory")):
        for _, _, text in lines:
            if any(part in text for part in words):
                return DecodeFault(reason, text)
    for level, name, text in lines:
        if level > ERROR or name not in speakers or text.startswith(HARMLESS):
            continue
        reason = "truncated" if any(words in text for words in CUT_SHORT) else "corrupt"
        return DecodeFault(reason, f"{name}: {text}")
    return None


def cut_short(logs: Iterable[Log], demuxer: str) -> DecodeFault | None:
    """Return what the demuxer said, as it opened the file, about an end that is missing.

    Other messages of the opening are not damage: the decoder repeats what concerns its pictures.
    """
    for level, name, message in logs:
        if level <= ERROR and name == demuxer and any(words in message for words in CUT_SHORT):
            return DecodeFault("truncated", f"{name}: {flat(message)}")
    return None


def flat(text: str) -> str:
    """Return the text without line breaks or runs of blanks, at most 300 characters."""
    return " ".join(text.split())[:300]
