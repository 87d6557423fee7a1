"""What the structure of a file proves about its end: bytes that it lists and does not hold.

Only sizes and positions count, which a writer needs to find its own data. Lengths in seconds do
not: they are rounded, count the longest track or from zero, and recorders write them afterwards.

| container | numbers here | length in its header |
|---|---|---|
| MP4 | sample table, boxes and `sidx`, numbers of fragments | longest track, by the edit list |
| AVI | LIST `movi` | frames, dropped ones included |
| ASF | Data object | longest stream, with the preroll |
| FLV | tags, size of the file | as the recorder wrote it |
| Matroska | FFmpeg's demuxer checks the sizes of its elements | end of the last block, from zero |

MPEG-TS, MPEG-PS and Ogg list nothing ahead of it.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from av.index import IndexEntry

ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


FLV_SIZE = b"\0\x08filesize\0"
"""Key of a number in FLV metadata."""


FLV_MOST = 1e15


MAX_READ = 1 << 24
"""Maximum number of bytes of one box that are read; a size in a hostile file has no limit."""


MAX_BOXES = 1_000_000


Box = tuple[bytes, int, int]
"""Kind of a box, and where its content begins and ends."""


def missing_end(
    format_name: str, file: BinaryIO, track: int, index: Iterable[IndexEntry]
) -> str | None:
    """Return what a file lists and does not hold; None if it holds all of it, or lists nothing.

    Args:
        format_name: FFmpeg's name of the container.
        file: readable and seekable; its position changes.
        track: number of the video's track in an MP4.
        index: samples of the video that the container lists.
    """
    size = file.seek(0, 2)
    reach = 0
    if format_name.startswith("mov,"):
        fragments = _Fragments(file, size)
        if lost := fragments.lost(track):
            return lost
        ends = (entry.pos + entry.size for entry in index if entry.size and not entry.is_discard)
        reach = max(fragments.reach, max(ends, default=0))
    elif format_name == "avi":
        reach = _avi_reach(file)
    elif format_name == "asf":
        reach = _asf_reach(file)
    elif format_name == "flv":
        reach = _flv_reach(file, size)
    if reach > size:
        return f"the file lists data up to byte {reach} and ends at byte {size}"
    return None


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(min(size, MAX_READ))


def _avi_reach(file: BinaryIO) -> int:
    at = reach = 0
    while len(head := _read(file, at, 12)) == 12:
        (length,) = struct.unpack("<I", head[4:8])
        if head[:4] in (b"RIFF", b"LIST") and head[8:] in (b"AVI ", b"AVIX"):
            at += 12
            continue
        if head[:4] == b"LIST" and head[8:] == b"movi":
            reach = max(reach, at + 8 + length)
        at += 8 + length + length % 2
    return reach


def _asf_reach(file: BinaryIO) -> int:
    at = 0
    while len(head := _read(file, at, 24)) == 24:
        (length,) = struct.unpack("<Q", head[16:])
        if head[:16] == ASF_DATA:
            return int(at + length)
        at += max(length, 24)
    return 0


def _flv_reach(file: BinaryIO, size: int) -> int:
    at = int.from_bytes(_read(file, 5, 4), "big") + 4
    while at < size:
        head = _read(file, at, 11)
        if head[0] & 0x1F not in (8, 9, 18):
            return 0
        end = at + 11 + int.from_bytes(head[1:4], "big")
        at = end + 4
        if len(head) < 11 or (at > size and end != size):
            return max(end, size + 1)
    metadata = _read(file, 0, 1 << 16)
    value = metadata.find(FLV_SIZE) + len(FLV_SIZE)
    if value < len(FLV_SIZE) or value + 8 > len(metadata):
        return 0
    (listed,) = struct.unpack_from(">d", metadata, value)
    return int(listed) if size < listed < FLV_MOST else 0


@dataclass(frozen=True, slots=True)
class _Fragment:
    """One fragment of an MP4: its number, and the decoding time that it covers of one track."""

    number: int
    begin: int | None = None
    end: int = 0
    samples: int = 0


class _Fragments:
    """The top-level boxes of an MP4, and its fragments."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._moofs: list[Box] = []
        self._moov: Box | None = None
        self.reach = 0
        """Position up to which the file says that it reaches; 0 without fragments."""
        kind, end = b"", 0
        for kind, begin, end in islice(boxes(file, 0, size), MAX_BOXES):
            if kind == b"sidx":
                self.reach = max(self.reach, end + _sidx_bytes(_read(file, begin, end - begin)))
            elif kind == b"moof":
                self._moofs.append((kind, begin, end))
            elif kind == b"moov":
                self._moov = kind, begin, end
        if self._moofs:
            self.reach = max(self.reach, end, end + 1 if kind == b"moof" else 0)
            if end < size < end + 8:
                self.reach = max(self.reach, size + 1)

    def lost(self, track: int) -> str | None:
        """Return which fragments are missing between others.

        Numbers alone prove nothing: a track that was taken out of a file has every second number.
        A recording that pauses leaves time out. Both at one place are a lost fragment.
        """
        defaults = self._default_duration(track)
        last: _Fragment | None = None
        others = 0
        for moof in self._moofs:
            found = self._fragment(moof, track, defaults)
            if found.begin is None:
                others += 1
                continue
            if last is not None and last.samples and last.begin is not None:
                gap = (found.begin - last.end) * last.samples > (last.end - last.begin) // 2
                if gap and found.number - last.number - 1 > others:
                    return f"fragments are missing between {last.number} and {found.number}"
            last, others = found, 0
        return None

    def _default_duration(self, track: int) -> int:
        for _, begin, end in _inside(self._file, self._moov, b"mvex", b"trex"):
            body = _read(self._file, begin, end - begin)
            if len(body) >= 16 and int.from_bytes(body[4:8], "big") == track:
                return int.from_bytes(body[12:16], "big")
        return 0

    def _fragment(self, moof: Box, track: int, duration: int) -> _Fragment:
        number, begin, total, samples = 0, None, 0, 0
        for kind, at, end in boxes(self._file, moof[1], moof[2]):
            if kind == b"mfhd":
                number = int.from_bytes(_read(self._file, at + 4, 4), "big")
            if kind != b"traf":
                continue
            for part, first, until in boxes(self._file, at, end):
                body = _read(self._file, first, until - first)
                flags = int.from_bytes(body[1:4], "big")
                if part == b"tfhd":
                    if int.from_bytes(body[4:8], "big") != track:
                        break
                    skipped = 8 + 8 * (flags & 1) + 4 * (flags >> 1 & 1)
                    if flags & 8:
                        duration = int.from_bytes(body[skipped : skipped + 4], "big")
                elif part == b"tfdt":
                    begin = int.from_bytes(body[4 : 12 if body[:1] == b"\1" else 8], "big")
                elif part == b"trun":
                    count, step = (
                        int.from_bytes(body[4:8], "big"),
                        4 * (flags >> 8 & 15).bit_count(),
                    )
                    runs = body[8 + 4 * (flags & 1) + 4 * (flags >> 2 & 1) :]
                    samples += count
                    if flags & 0x100:
                        starts = range(0, len(runs), step)
                        total += sum(int.from_bytes(runs[n : n + 4], "big") for n in starts)
                    else:
                        total += count * duration
        return _Fragment(number, begin, (begin or 0) + total, samples)


def boxes(file: BinaryIO, begin: int, end: int) -> Iterator[Box]:
    """Yield the boxes of an MP4 in a range of bytes; the last one may end after it."""
    while begin + 8 <= end:
        head = _read(file, begin, 16)
        size, kind, body = int.from_bytes(head[:4], "big"), head[4:8], begin + 8
        if size == 1:
            size, body = int.from_bytes(head[8:], "big"), begin + 16
        after = begin + size if size else end
        if after < body:
            return
        yield kind, body, after
        begin = after


def _inside(file: BinaryIO, box: Box | None, *path: bytes) -> Iterator[Box]:
    if box is not None and not path:
        yield box
    elif box is not None:
        for inner in boxes(file, box[1], box[2]):
            if inner[0] == path[0]:
                yield from _inside(file, inner, *path[1:])


def _sidx_bytes(body: bytes) -> int:
    """Return the number of bytes after a `sidx` box that it lists."""
    first, at = (body[20:28], 28) if body[:1] == b"\1" else (body[16:20], 20)
    count = int.from_bytes(body[at + 2 : at + 4], "big")
    entries = range(at + 4, at + 4 + 12 * count, 12)
    sizes = (int.from_bytes(body[n : n + 4], "big") & 0x7FFFFFFF for n in entries)
    return int.from_bytes(first, "big") + sum(sizes)
