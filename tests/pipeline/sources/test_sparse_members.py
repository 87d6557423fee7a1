"""Sparse members of a tar, in each of the formats: quarantined, and what is beside them counts."""

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.quarantine import Quarantined
from tests.pipeline.sources.test_reader import read_tar, reasons
from tests.pipeline.sources.test_tar_limits import (
    END,
    GOOD,
    assert_past_limit,
    body,
    header,
    padded,
    pax,
)
from tests.pipeline.tars import Files

CONTENT = b"B" * 512 + bytes(4096) + b"C" * 600
PIECES = ((0, 512), (4608, 600))
DATA = b"B" * 512 + b"C" * 600
FORMATS = ["gnu", "0.0", "0.1", "1.0"]
NEXT: Files = [("c.mp4", b"video")]


def sparse_member(form: str, pieces: tuple[tuple[int, int], ...], size: int) -> bytes:
    """Return a sparse member whose data are `DATA`."""
    real = str(size).encode()
    text = b",".join(b"%d,%d" % piece for piece in pieces)
    if form == "gnu":
        return gnu_header(pieces, size) + padded(DATA)
    plain = header("GNUSparseFile.0/b.mp4", len(DATA)) + padded(DATA)
    if form == "0.0":
        repeated = [
            (f"GNU.sparse.{key}", b"%d" % number)
            for piece in pieces
            for key, number in zip(("offset", "numbytes"), piece, strict=True)
        ]
        return pax(("path", b"b.mp4"), ("GNU.sparse.size", real), *repeated) + plain
    name = ("GNU.sparse.name", b"b.mp4")
    if form == "0.1":
        return pax(name, ("GNU.sparse.size", real), ("GNU.sparse.map", text)) + plain
    lines = b"%d\n" % len(pieces) + text.replace(b",", b"\n") + b"\n"
    version = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]
    data = padded(lines) + DATA
    return (
        pax(*version, name, ("GNU.sparse.realsize", real))
        + header("GNUSparseFile.0/b.mp4", len(data))
        + padded(data)
    )


def gnu_header(pieces: tuple[tuple[int, int], ...], size: int) -> bytes:
    """Return the header of an old GNU sparse member with its map, four pieces and then blocks."""

    def octal(number: int) -> bytes:
        return b"%011o\0" % number

    block = bytearray(header("b.mp4", len(DATA), tarfile.GNUTYPE_SPARSE))
    numbers = b"".join(octal(start) + octal(length) for start, length in pieces)
    block[386 : 386 + min(96, len(numbers))] = numbers[:96]
    block[483:495] = octal(size)
    more = b""
    for at in range(96, len(numbers), 504):
        last = at + 504 >= len(numbers)
        more += numbers[at : at + 504].ljust(504, b"\0") + (b"\0" if last else b"\1") + bytes(7)
    block[482] = bool(more)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + more


@pytest.mark.parametrize("form", FORMATS)
def test_goes_to_the_quarantine(form: str, tmp_path: Path) -> None:
    tar = body(GOOD) + sparse_member(form, PIECES, len(CONTENT)) + body(NEXT) + END
    with tarfile.open(fileobj=io.BytesIO(tar)) as theirs:
        [info] = [info for info in theirs if info.name == "b.mp4"]
        content = theirs.extractfile(info)
        assert content is not None
        assert content.read() == CONTENT
    outcomes = read_tar(tar, tmp_path)
    assert reasons(outcomes) == [("a", None), ("b", "no_video"), ("c", None)]
    assert isinstance(outcomes[1], Quarantined)
    assert outcomes[1].detail == "b.mp4 is a sparse member; pack the tar without --sparse"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        (tuple((10 * n, 1) for n in range(len(DATA))), 20_000),
        (PIECES, 2**33 - 1),
        (((0, 2**30),), 5208),
        (((0, 512), (511, 1)), 5208),
    ],
    ids=["a long map", "a huge file", "pieces beyond it", "pieces that overlap"],
)
def test_its_map_is_not_believed(
    form: str, pieces: tuple[tuple[int, int], ...], size: int, tmp_path: Path
) -> None:
    tar = body(GOOD) + sparse_member(form, pieces, size) + body(NEXT) + END
    assert reasons(read_tar(tar, tmp_path)) == [("a", None), ("b", "no_video"), ("c", None)]


def test_an_endless_map_is_a_limit() -> None:
    block = bytearray(gnu_header(PIECES, 5208))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert_past_limit(bytes(block) + (bytes(504) + b"\1" * 8) * 3000, "before one member")
