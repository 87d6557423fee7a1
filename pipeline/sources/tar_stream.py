"""A tar's bytes, whatever its compression: forward only, in pieces, and within a limit.

A few kilobytes of bzip2 or xz can unpack to terabytes, and tarfile unpacks a block of them whole.
Here no piece is larger than requested. All pieces together may be a hundred times the packed size,
beyond a first GiB.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Final, cast

MAX_RATIO: Final = 100
"""Maximum ratio of unpacked to packed bytes. Video hardly packs, and captions pack to a tenth: only
hostile tars exceed it."""


FREE_BYTES: Final = 1 << 30
"""Number of unpacked bytes from which the ratio is checked; they take a second or two."""


_BUFFER_BYTES: Final = 1 << 16
"""Number of bytes that are read at once for headers."""


_PIECE_BYTES: Final = 1 << 20
"""Number of bytes that are read at once of a long member: its declared size allocates nothing."""


_MAX_DICTIONARY_BYTES: Final = 256 << 20
"""Maximum memory for unpacking xz; `xz -9` needs 65 MiB."""


class DamagedTar(Exception):
    """The tar ends too early or is not a tar. `key` is the sample that the damage hit, if any."""

    def __init__(self, detail: str, *, truncated: bool, key: str | None = None) -> None:
        super().__init__(detail)
        self.truncated = truncated
        self.key = key


class TarPastLimit(DamagedTar):
    """The rest of the tar is not read: it would take more memory or time than a tar may."""

    def __init__(self, detail: str, *, key: str | None = None) -> None:
        super().__init__(detail, truncated=False, key=key)


class TarBytes:
    """Reads a tar, compressed or not.

    Args:
        file: opened for reading; it need not seek.

    All methods raise `DamagedTar` where the compression is damaged or breaks off, `TarPastLimit`
    where it passes a limit, and any error that `file` raises.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._buffered = io.BufferedReader(_Unpacked(file), _BUFFER_BYTES)

    def read(self, size: int) -> bytes:
        """Return the next bytes; fewer than `size` only at the end, however large it is."""
        if size <= _PIECE_BYTES:
            return self._buffered.read(size)
        content = io.BytesIO()
        while (left := size - content.tell()) and (
            piece := self._buffered.read(min(left, _PIECE_BYTES))
        ):
            content.write(piece)
        return content.getvalue()

    def skip(self, size: int) -> None:
        """Skip the next bytes.

        Raises:
            DamagedTar: there are fewer.
        """
        while size:
            piece = self._buffered.read(min(size, _PIECE_BYTES))
            if not piece:
                detail = "unexpected end of data: a member is larger than what is left"
                raise DamagedTar(detail, truncated=True)
            size -= len(piece)


class _Unpacked(io.RawIOBase):
    """The unpacked bytes, counted."""

    def __init__(self, file: BinaryIO) -> None:
        self._packed = _PackedBytes(file)
        self._num_bytes = 0
        self._unpack = self._packed.unpacking()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        try:
            data = self._unpack(len(view))
        except EOFError as error:
            detail = "unexpected end of data: the compression breaks off"
            raise DamagedTar(detail, truncated=True) from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise DamagedTar(f"damaged compression: {error}", truncated=False) from error
        self._num_bytes += len(data)
        if self._num_bytes > FREE_BYTES + MAX_RATIO * self._packed.num_bytes:
            raise TarPastLimit(
                f"more than {FREE_BYTES >> 20} MiB, and {MAX_RATIO} times what was read of it,"
                " comes out of its compression; pack it without"
            )
        view[: len(data)] = data
        return len(data)


class _PackedBytes:
    """The packed bytes, counted; the first of them show the compression."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._head = file.read(_BUFFER_BYTES)
        self.num_bytes = 0

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = self._file.read(size)
        self.num_bytes += len(data)
        return data

    def unpacking(self) -> Callable[[int], bytes]:
        """Return a function that reads up to N bytes of the tar, chosen by tarfile's marks."""
        if self._head.startswith(b"\x1f\x8b\x08"):
            return gzip.GzipFile(fileobj=cast("BinaryIO", self), mode="rb").read1
        if self._head.startswith(b"BZh") and self._head[4:10] == b"1AY&SY":
            return _Streams(self, bz2.BZ2Decompressor).read
        if self._head.startswith((b"\x5d\x00\x00\x80", b"\xfd7zXZ")):
            unpack = partial(lzma.LZMADecompressor, memlimit=_MAX_DICTIONARY_BYTES)
            return _Streams(self, unpack).read
        return self.read


class _Streams:
    """Streams of bzip2 or xz, one behind the other; zeros can follow each."""

    def __init__(
        self,
        packed: _PackedBytes,
        unpack: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor],
    ) -> None:
        self._packed = packed
        self._unpack = unpack
        self._stream = unpack()

    def read(self, size: int) -> bytes:
        while True:
            piece = b""
            if self._stream.eof:
                piece = self._stream.unused_data.lstrip(b"\0")
                while not piece:
                    if not (more := self._packed.read(_BUFFER_BYTES)):
                        return b""
                    piece = more.lstrip(b"\0")
                self._stream = self._unpack()
            elif self._stream.needs_input and not (piece := self._packed.read(_BUFFER_BYTES)):
                raise EOFError
            try:
                data = self._stream.decompress(piece, size)
            except (OSError, lzma.LZMAError) as error:
                if "limit" in str(error):
                    mib = _MAX_DICTIONARY_BYTES >> 20
                    detail = f"unpacking xz takes more than {mib} MiB; pack it with xz -9 or less"
                    raise TarPastLimit(detail) from error
                raise DamagedTar(f"damaged compression: {error}", truncated=False) from error
            if data:
                return data
