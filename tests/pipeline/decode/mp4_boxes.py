"""Changes to the boxes of a small MP4 file, whose `moov` comes after its `mdat`."""

import struct
from collections.abc import Callable, Collection, Sequence

_ENTRY = 86
"""Size of a sample entry of video before its boxes."""

_STSD = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")


def box(kind: bytes, fields: str, *values: int) -> bytes:
    body = struct.pack(f">{fields}", *values)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def colr(matrix: int, full: bool, transfer: int = 1, primaries: int = 1) -> bytes:
    return box(b"colr", "4B3HB", *b"nclx", primaries, transfer, matrix, full << 7)


def clap(height: int, width: int, down: int = 0, right: int = 0) -> bytes:
    """The crop of this size, whose centre lies this far from the picture's."""
    return box(b"clap", "8i", width, 1, height, 1, right, 1, down, 1)


def pasp(width: int, height: int) -> bytes:
    return box(b"pasp", "2I", width, height)


def with_boxes(video: bytes, *added: bytes, drop: Collection[bytes] = (b"colr", b"pasp")) -> bytes:
    """Append boxes to the first sample entry, in place of those of the kinds in `drop`."""

    def change(body: bytes) -> bytes:
        (size,) = struct.unpack_from(">I", body, 8)
        kept = [data for kind, data in _boxes(body[8 + _ENTRY : 8 + size]) if kind not in drop]
        entry = body[12 : 8 + _ENTRY] + b"".join((*kept, *added))
        return body[:8] + struct.pack(">I", len(entry) + 4) + entry + body[8 + size :]

    return _changed(video, _STSD, change)


def shown_as(video: bytes, height: int, width: int) -> bytes:
    """Set the size at which the track is shown."""
    size = struct.pack(">2I", width << 16, height << 16)
    return _changed(video, (b"moov", b"trak", b"tkhd"), lambda body: body[:-8] + size)


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    while data:
        size, kind = struct.unpack_from(">I4s", data)
        found.append((kind, data[:size]))
        data = data[size:]
    return found


def _changed(data: bytes, path: Sequence[bytes], change: Callable[[bytes], bytes]) -> bytes:
    parts = []
    for kind, whole in _boxes(data):
        body = whole[8:]
        if kind == path[0]:
            body = change(body) if len(path) == 1 else _changed(body, path[1:], change)
        parts.append(struct.pack(">I4s", len(body) + 8, kind) + body)
    return b"".join(parts)
