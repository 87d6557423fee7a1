"""What an attacker does to a tar: absurd sizes and counts where headers declare them, and bombs."""

import bz2
import gzip
import lzma
import random
import tarfile
from collections.abc import Sequence

from tests.fuzz.mutations import MUTATIONS, Mutation

_BLOCK = tarfile.BLOCKSIZE
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_TYPE = 156
_SPARSE = range(386, 482, 12)
_IS_EXTENDED = 482
_REAL_SIZE = slice(483, 495)

_SIZES = (
    0,
    1,
    511,
    512,
    513,
    4096,
    1 << 20,
    (1 << 20) + 1,
    8**11 - 1,
    1 << 40,
    1 << 64,
    1 << 79,
    -1,
    -512,
)
_TYPES = b"\x000123456789xgXLKSVDMN"
_NUMBERS = (
    b"",
    b"0",
    b"-1",
    b"7",
    b"1e9",
    b"4294967296",
    b"9" * 19,
    b"9" * 5000,
    b"\xff",
    b"1,2,3",
)
_KEYS = (
    *("path", "size", "linkpath", "hdrcharset", "comment", "GNU.sparse.major", "GNU.sparse.minor"),
    *("GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.name", "GNU.sparse.map"),
    *("GNU.sparse.numblocks", "GNU.sparse.offset", "GNU.sparse.numbytes"),
)
_VALUES = (
    *_NUMBERS,
    *(b"x.mp4", b"../../x.mp4", b"/x.mp4", b"1", b"BINARY", b"n" * 5000 + b".mp4"),
    *(b"1" * 100_000, b"2 2 " * 25_000, b"a/" * 50_000, b"0,1," * 25_000 + b"0,1"),
)


def _size(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Let a header declare another size."""
    if (at := _header(data, draws)) is not None:
        _write(data, at, _SIZE, _field(draws.choice(_SIZES)))


def _type(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Make another kind of a member: a link, a device, an extended header, a sparse member."""
    if (at := _header(data, draws)) is not None:
        data[at + _TYPE] = draws.choice(_TYPES)
        _sign(data, at)


def _sparse(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Make an old sparse member with absurd pieces."""
    if (at := _header(data, draws)) is not None:
        data[at + _TYPE] = ord("S")
        for start in _SPARSE:
            data[at + start : at + start + 12] = _field(draws.choice(_SIZES))
        data[at + _IS_EXTENDED] = draws.choice((0, 1))
        _write(data, at, _REAL_SIZE, _field(draws.choice(_SIZES)))


def _pax(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Put extended headers before a member: of one record or many, whose lengths may lie."""
    at = _header(data, draws)
    if at is None:
        return
    body = b""
    for _n in range(draws.choice((1, 1, 3, 200))):
        rest = f" {draws.choice(_KEYS)}=".encode() + draws.choice(_VALUES) + b"\n"
        length = len(rest) + len(str(len(rest) + 4))
        body += str(draws.choice((length,) * 9 + (0, 1, 10**9))).encode() + rest
        if len(body) > 1 << 20:
            break
    if draws.random() < 0.3:
        body = b"%d\n" % draws.choice((0, 2, 10**9)) + draws.choice(_NUMBERS) + b"\n" + body
    data[at:at] = _member(draws.choice(b"xgXLK"), body) * draws.choice(
        (1, 1, 2, 3000 // len(body) + 1)
    )


def _many(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Repeat a header thousands of times, as one sample or as many."""
    if (at := _header(data, draws)) is not None:
        one = data[at : at + _BLOCK]
        one[_SIZE] = _field(0)
        numbered = draws.choice((b"a.%d", b"%d.mp4", b"%d.txt", b"%d", None))
        copies = bytearray()
        for n in range(draws.choice((20, 200, 200, 200, 11_000))):
            copy = bytearray(one)
            if numbered is not None:
                copy[:100] = (numbered % n).ljust(100, b"\0")
            _sign(copy, 0)
            copies += copy
        data[at:at] = copies


def _pack(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Compress it, once or twice, perhaps with megabytes of zeros in its middle."""
    if draws.random() < 0.5 and (at := _header(data, draws)) is not None:
        zeros = draws.choice((1 << 16, 1 << 20, 4 << 20))
        name = draws.choice((b"z.mp4", b"z.txt", b"z"))
        data[at:at] = _member(ord("0"), bytes(zeros), name)
    pack = draws.choice((gzip.compress, bz2.compress, lzma.compress))
    data[:] = pack(bytes(data))


def _header(data: bytearray, draws: random.Random) -> int | None:
    """Return the offsets of headers: the blocks that end in a format's mark."""
    found = [
        at
        for at in range(0, len(data) - _BLOCK + 1, _BLOCK)
        if data[at + 257 : at + 262] == b"ustar"
    ]
    return draws.choice(found[:1000]) if found else None


def _member(kind: int, body: bytes, name: bytes = b"extended") -> bytes:
    block = bytearray(tarfile.TarInfo(name.decode()).tobuf(tarfile.USTAR_FORMAT))
    block[_TYPE] = kind
    _write(block, 0, _SIZE, _field(len(body)))
    return bytes(block) + body + bytes(-len(body) % _BLOCK)


def _field(number: int) -> bytes:
    """Return a number of 12 bytes: octal, or binary if it is too large or negative."""
    if 0 <= number < 8**11:
        return b"%011o\0" % number
    return (b"\x80" if number > 0 else b"\xff") + number.to_bytes(11, "big", signed=number < 0)


def _write(data: bytearray, at: int, field: slice, value: bytes) -> None:
    data[at + field.start : at + field.stop] = value
    _sign(data, at)


def _sign(data: bytearray, at: int) -> None:
    """Write the checksum that a reader asks for before it believes anything."""
    block = data[at : at + _BLOCK]
    block[_CHECKSUM] = b" " * 8
    data[at + _CHECKSUM.start : at + _CHECKSUM.stop] = b"%06o\0 " % sum(block)


_OF_TARS: tuple[Mutation, ...] = (_size, _type, _sparse, _pax, _many, _pack)
TAR_MUTATIONS: tuple[Mutation, ...] = (*MUTATIONS, *_OF_TARS, *_OF_TARS)
