"""The members of a tar, one after the other: name, size, and content if it is asked for.

tarfile would do, but for hostile tars: its extended headers cost the square of their length in time
and memory, global ones are kept for ever and copied into every member, a sparse map has no end. And
it ends in silence where a tar is cut between two members, or inside a header: here only the end
mark (a block of zeros) is an end, all else raises. What is read means what it means to tarfile.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from pipeline.sources.tar_stream import DamagedTar, TarBytes, TarPastLimit

_BLOCK_BYTES: Final = tarfile.BLOCKSIZE


_MAX_HEADER_BYTES: Final = 1 << 20
"""Of one member, with all its extended headers and its sparse map."""


_MAX_NAME_BYTES: Final = 4096
"""What a path may have on Linux."""


_PAX: Final = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})


_EXTENDED: Final = _PAX | {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}


_SHARED: Final = frozenset({"path", "size"})
"""The only fields that a global header can give to all members behind it."""


Piece = tuple[int, int]
"""Of a sparse member: where it lies in the content, and its length. All else is zeros."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """What stands in front of a member's content."""

    name: str
    size: int
    """Bytes of its content, holes and all."""
    is_regular: bool
    is_folder: bool
    pieces: tuple[Piece, ...] | None = None
    """None unless it is sparse."""


class TarMembers:
    """Walks a tar.

    Args:
        file: opened for reading; it need not seek.

    All methods raise `DamagedTar` where the tar is damaged, ends, or passes a limit, and whatever
    `file` raises.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._bytes = TarBytes(file)
        self._shared: dict[str, bytes] = {}
        self._left = 0
        """Bytes before the next header."""
        self._header_bytes = 0
        """Read of the present member's headers."""
        self._member: TarMember | None = None

    def next(self) -> TarMember | None:
        """Return the next member, or None at the end mark."""
        self._bytes.skip(self._left)
        self._left = self._header_bytes = 0
        own: dict[str, bytes] = {}
        pieces: list[Piece] = []
        while (info := self._info()) is not None and info[0].type in _EXTENDED:
            kind = info[0].type
            data = self._header(_padded(info[0].size))[: info[0].size]
            if kind == tarfile.GNUTYPE_LONGNAME:
                own.setdefault("path", data.partition(b"\0")[0])
            elif kind == tarfile.XGLTYPE:
                self._shared |= {key: value for key, value in _records(data) if key in _SHARED}
            elif kind in _PAX:
                # Of several headers the first counts, as with tarfile.
                records = list(_records(data))
                own = dict(records) | own
                pieces = pieces or _repeated_pieces(records)
        if info is None:
            if self._header_bytes > _BLOCK_BYTES:
                raise DamagedTar("bad header: an extended one without a member", truncated=False)
            return None
        self._member = self._described(*info, self._shared | own, pieces)
        return self._member

    def read(self) -> bytes:
        """Return the content of the member that `next` returned; once."""
        member = self._member
        assert member is not None
        if member.pieces is None:
            return self._content(member.size)
        self._bytes.add_holes(member.size - sum(size for _, size in member.pieces))
        content = bytearray(member.size)
        for start, size in member.pieces:
            content[start : start + size] = self._content(size)
        return bytes(content)

    def _described(
        self, info: tarfile.TarInfo, block: bytes, fields: dict[str, bytes], pieces: list[Piece]
    ) -> TarMember:
        """Return the member that a header and its fields describe; find where the next begins."""
        stored = _number(fields["size"]) if "size" in fields else info.size
        real = fields.get("GNU.sparse.realsize", fields.get("GNU.sparse.size"))
        size = stored if real is None else _number(real)
        name = fields.get("GNU.sparse.name", fields.get("path"))
        if len(name or b"") > _MAX_NAME_BYTES:
            raise TarPastLimit(
                f"a name of {len(name or b'')} bytes, the limit is {_MAX_NAME_BYTES};"
                " give it a shorter one"
            )
        if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:
            self._left = _padded(stored)
        sparse: Sequence[Piece] | None = None
        if info.type == tarfile.GNUTYPE_SPARSE:
            sparse, size = self._gnu_pieces(block), _octal(block[483:495])
        elif "GNU.sparse.map" in fields:
            numbers = [_number(text) for text in fields["GNU.sparse.map"].split(b",")]
            sparse = list(zip(numbers[::2], numbers[1::2], strict=False))
        elif fields.get("GNU.sparse.major") == b"1":
            sparse = self._leading_pieces()
        elif "GNU.sparse.size" in fields:
            sparse = pieces
        elif real is not None:
            raise DamagedTar("bad sparse map: of an unknown version", truncated=False)
        if sparse is not None:
            sparse = [piece for piece in sparse if piece[1]]
            _check_pieces(sparse, size, self._left)
        return TarMember(
            info.name if name is None else name.decode("utf-8", "backslashreplace").rstrip("/"),
            size,
            is_regular=info.isreg(),
            is_folder=info.isdir(),
            pieces=None if sparse is None else tuple(sparse),
        )

    def _info(self) -> tuple[tarfile.TarInfo, bytes] | None:
        """Return the next header block, parsed and as it is; None if it is the end mark."""
        block = self._bytes.read(_BLOCK_BYTES)
        if len(block) < _BLOCK_BYTES:
            raise DamagedTar("unexpected end of data: no end mark", truncated=True)
        self._header_bytes += _BLOCK_BYTES
        if not block.strip(b"\0"):
            return None
        try:
            # Names that are not UTF-8 must not bring lone surrogates into keys: Arrow refuses them.
            info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            raise DamagedTar(f"bad header: {error}", truncated=False) from error
        if info.size < 0:
            raise DamagedTar(f"bad header: a size of {info.size}", truncated=False)
        return info, block

    def _header(self, size: int) -> bytes:
        """Return the next bytes of the headers."""
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise TarPastLimit(
                f"headers of {self._header_bytes} bytes before one member, the limit is"
                f" {_MAX_HEADER_BYTES}; pack it without extended attributes or with shorter names"
            )
        return self._all(size)

    def _content(self, size: int) -> bytes:
        data = self._all(size)
        self._left -= size
        return data

    def _all(self, size: int) -> bytes:
        data = self._bytes.read(size)
        if len(data) < size:
            raise DamagedTar("unexpected end of data", truncated=True)
        return data

    def _gnu_pieces(self, block: bytes) -> list[Piece]:
        """Return the map of an old GNU sparse member, from its header and the blocks behind it."""
        numbers, more = bytearray(block[386:482]), block[482]
        while more:
            block = self._header(_BLOCK_BYTES)
            numbers += block[:504]
            more = block[504]
        return [
            (_octal(numbers[at : at + 12]), _octal(numbers[at + 12 : at + 24]))
            for at in range(0, len(numbers), 24)
        ]

    def _leading_pieces(self) -> list[Piece]:
        """Return the map that stands before the content: a count, then that many pairs of lines."""
        text = bytearray()
        num_lines, wanted = 0, 1
        while num_lines < wanted:
            block = self._header(_BLOCK_BYTES)
            self._left -= _BLOCK_BYTES
            text += block
            num_lines += block.count(b"\n")
            if wanted == 1 and num_lines:
                wanted += 2 * _number(bytes(text.partition(b"\n")[0]))
        numbers = [_number(line) for line in bytes(text).split(b"\n")[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def _records(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the records `length key=value` of a pax header."""
    at = 0
    while at < len(data) and data[at]:
        digits = data[at : at + 20].partition(b" ")[0]
        record = data[at : at + _number(digits)]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < _number(digits) or not record.endswith(b"\n") or not key or not equals:
            raise DamagedTar(f"bad extended header at its byte {at}", truncated=False)
        yield key.decode("utf-8", "backslashreplace"), value
        at += len(record)


def _repeated_pieces(records: Sequence[tuple[str, bytes]]) -> list[Piece]:
    """Return the map of sparse format 0.0, which repeats two keys."""
    starts = [_number(value) for key, value in records if key == "GNU.sparse.offset"]
    sizes = [_number(value) for key, value in records if key == "GNU.sparse.numbytes"]
    return list(zip(starts, sizes, strict=False))


def _check_pieces(pieces: Sequence[Piece], size: int, stored: int) -> None:
    end = 0
    for start, length in pieces:
        if start < end or length < 0:
            raise DamagedTar("bad sparse map: pieces overlap", truncated=False)
        end = start + length
    if end > size or sum(length for _, length in pieces) > stored:
        raise DamagedTar("bad sparse map: it is larger than the member", truncated=False)


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise DamagedTar(f"bad extended header: {text[:20]!r} is no number", truncated=False)
    return int(text)


def _octal(field: bytes | bytearray) -> int:
    try:
        return tarfile.nti(bytes(field))  # type: ignore[attr-defined, no-any-return]
    except tarfile.HeaderError as error:
        raise DamagedTar(f"bad sparse map: {error}", truncated=False) from error
