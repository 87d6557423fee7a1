"""The members of a tar, one after the other: name, size, and content on request.

tarfile is not used because of hostile tars: its extended headers cost the square of their length in
time and memory, and global headers are kept for ever and copied into every member. It also ends in
silence where a tar is cut between two members, or inside a header. Here only the end mark (a block
of zeros) ends a tar, and another tar can follow it; anything else raises. What is read has the same
meaning as in tarfile. Sparse members are recognised and not read.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from pipeline.sources.tar_stream import DamagedTar, TarBytes, TarPastLimit
from pipeline.sources.text import escaped_name

MAX_HEADER_BYTES: Final = 1 << 20
"""Maximum size of the headers of one member, with all its extended headers."""


MAX_NAME_BYTES: Final = 4096
"""Maximum size of a member's name: that of a path on Linux."""


_BLOCK_BYTES: Final = tarfile.BLOCKSIZE


_PAX: Final = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})


_EXTENDED: Final = _PAX | {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}


_SHARED: Final = frozenset({"path", "size"})
"""The only fields of a global header that count for the members behind it."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member's headers."""

    name: str
    size: int
    """Number of bytes that the tar holds of it."""
    kind: Literal["file", "folder", "sparse", "other"]
    """Type of the member. Links and devices are `other`; only a `file` can be read."""


class TarMembers:
    """Walks a tar.

    Args:
        file: opened for reading; it need not seek.

    All methods raise `DamagedTar` where the tar is damaged or ends, `TarPastLimit` where it passes
    a limit, and any error that `file` raises.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._bytes = TarBytes(file)
        self._shared: dict[str, bytes] = {}
        self._left = 0
        """Number of bytes before the next header."""
        self._header_bytes = 0
        """Number of bytes of the current member's headers that have been read."""
        self._size = 0
        """Number of bytes of the current member's content."""
        self._behind = b""
        """First block behind an end mark."""

    def next(self) -> TarMember | None:
        """Return the next member, or None at the end mark."""
        self._bytes.skip(self._left)
        self._left = self._header_bytes = 0
        own: dict[str, bytes] = {}
        while (found := self._info()) is not None and found[0].type in _EXTENDED:
            info = found[0]
            data = self._header(_padded(info.size))[: info.size]
            if info.type == tarfile.GNUTYPE_LONGNAME:
                own.setdefault("path", data.partition(b"\0")[0])
            elif info.type == tarfile.XGLTYPE:
                self._shared |= {key: value for key, value in _records(data) if key in _SHARED}
            elif info.type in _PAX:
                own = dict(_records(data)) | own  # the first of several counts, as with tarfile
        if found is None:
            if self._header_bytes > _BLOCK_BYTES:
                raise DamagedTar("bad header: an extended one without a member", truncated=False)
            return None
        return self._described(*found, self._shared | own)

    def another(self) -> bool:
        """Skip the zeros behind an end mark, and return whether something follows them."""
        self._shared.clear()
        while (block := self._bytes.read(_BLOCK_BYTES)) and not block.strip(b"\0"):
            pass
        self._behind = block
        return bool(block)

    def read(self) -> bytes:
        """Return the content of the member that `next` returned; once."""
        data = self._all(self._size)
        self._left -= self._size
        return data

    def _described(
        self, info: tarfile.TarInfo, block: bytes, fields: dict[str, bytes]
    ) -> TarMember:
        """Return the member that a header and its fields describe; find where the next begins."""
        name = fields.get("GNU.sparse.name", fields.get("path"))
        if len(name or b"") > MAX_NAME_BYTES:
            raise TarPastLimit(
                f"a name of {len(name or b'')} bytes, the limit is {MAX_NAME_BYTES};"
                " give it a shorter one"
            )
        self._size = _number(fields["size"]) if "size" in fields else info.size
        if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:
            self._left = _padded(self._size)
        kind: Literal["file", "folder", "sparse", "other"] = "other"
        if info.type == tarfile.GNUTYPE_SPARSE:
            kind = "sparse"
            more = block[482]
            while more:  # blocks of its map, which precede its content
                more = self._header(_BLOCK_BYTES)[504]
        elif any(field.startswith("GNU.sparse.") for field in fields):
            kind = "sparse"
        elif info.isdir():
            kind = "folder"
        elif info.isreg():
            kind = "file"
        text = info.name if name is None else name.decode("utf-8", "surrogateescape").rstrip("/")
        return TarMember(escaped_name(text), self._size, kind)

    def _info(self) -> tuple[tarfile.TarInfo, bytes] | None:
        """Return the next header block, parsed and as it is; None if it is the end mark."""
        behind, self._behind = self._behind, b""
        where = " behind the end mark" if behind else ""
        block = behind or self._bytes.read(_BLOCK_BYTES)
        if len(block) < _BLOCK_BYTES:
            detail = f"unexpected end of data{where}: no end mark"
            raise DamagedTar(detail, truncated=not behind)
        self._header_bytes += _BLOCK_BYTES
        if not block.strip(b"\0"):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DamagedTar(f"bad header{where}: {error}", truncated=False) from error
        if info.size < 0:
            raise DamagedTar(f"bad header: a size of {info.size}", truncated=False)
        return info, block

    def _header(self, size: int) -> bytes:
        """Return the next bytes of the headers."""
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            raise TarPastLimit(
                f"headers of {self._header_bytes} bytes before one member, the limit is"
                f" {MAX_HEADER_BYTES}; pack it without extended attributes or with shorter names"
            )
        return self._all(size)

    def _all(self, size: int) -> bytes:
        data = self._bytes.read(size)
        if len(data) < size:
            raise DamagedTar("unexpected end of data", truncated=True)
        return data


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


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise DamagedTar(f"bad extended header: {text[:20]!r} is not a number", truncated=False)
    return int(text)
