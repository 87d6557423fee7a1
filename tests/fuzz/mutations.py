"""What happens to files between a camera and a bucket, and what an attacker would do to them."""

import random
import re
from collections.abc import Callable, Sequence

Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], None]

_HEADER_BYTES = 4096
_BOX = re.compile(
    rb"(?:ftyp|moov|mdat|trak|mdia|minf|stbl|stsd|stts|stsz|stco|stsc|ctts|elst|avcC)"
)
_EXTREMES = (0, 1, 7, 8, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(
    originals: Sequence[bytes], seed: int, mutations: Sequence[Mutation] | None = None
) -> bytes:
    """Return one of the files with one to three mutations; all of it follows from the seed."""
    draws = random.Random(seed)
    data = bytearray(draws.choice(originals))
    for _ in range(draws.randint(1, 3)):
        draws.choice(mutations or MUTATIONS)(data, draws, originals)
    return bytes(data)


def _flip_bits(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    for _ in range(draws.choice((1, 4, 32, 256))):
        if data:
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)


def _flip_header_bits(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    for _ in range(draws.choice((1, 4, 16))):
        if data:
            data[_near_an_end(data, draws)] ^= 1 << draws.randrange(8)


def _truncate(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    del data[draws.randint(0, len(data)) :]


def _zeros(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    start, end = _range(data, draws)
    data[start:end] = bytes(end - start)


def _noise(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    start, end = _range(data, draws)
    data[start:end] = draws.randbytes(end - start)


def _remove(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    start, end = _range(data, draws)
    del data[start:end]


def _repeat(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    start, end = _range(data, draws)
    data[end:end] = data[start:end] * draws.randint(1, 3)


def _swap(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    start, end = _range(data, draws)
    piece = data[start:end]
    del data[start:end]
    at = draws.randint(0, len(data))
    data[at:at] = piece


def _graft(data: bytearray, draws: random.Random, originals: Sequence[bytes]) -> None:
    """Put the head of one file before the body of another."""
    other = draws.choice(originals)
    at = draws.randint(0, min(len(data), len(other)))
    data[at:] = other[at:]


def _number(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Write an extreme number over four bytes of a header."""
    at = _near_an_end(data, draws) if data else 0
    data[at : at + 4] = draws.choice(_EXTREMES).to_bytes(4, draws.choice(("big", "little")))


def _box_field(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Write an extreme number over a box's size, or over one of its first fields."""
    boxes = [match.start() for match in _BOX.finditer(data)]
    if boxes:
        at = max(0, draws.choice(boxes) + 4 * draws.choice((-1, 1, 2, 3, 4, 5, 6)))
        data[at : at + 4] = draws.choice(_EXTREMES).to_bytes(4, "big")


def _near_an_end(data: bytearray, draws: random.Random) -> int:
    """Return an offset in the first or last 4 KiB: where containers keep what they declare."""
    offset = draws.randrange(min(_HEADER_BYTES, len(data)))
    return offset if draws.random() < 0.6 else len(data) - 1 - offset


def _range(data: bytearray, draws: random.Random) -> tuple[int, int]:
    start = draws.randint(0, len(data))
    return start, min(len(data), start + draws.choice((1, 16, 256, 4096, 65536)))


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_header_bits,
    _truncate,
    _zeros,
    _noise,
    _remove,
    _repeat,
    _swap,
    _graft,
    _number,
    _box_field,
)
