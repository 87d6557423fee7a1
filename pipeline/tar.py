"""Streams a tar: its members grouped into samples by WebDataset's rule, and where it is damaged.

A member's key is its path up to the first dot of its base name, its extension the rest, in lower
case; neighbours with one key are one sample. tarfile ends an iteration in silence when a tar is
cut between two members, or inside a header: here only the end mark (a block of zeros) is an end,
all else raises. Names are keys and nothing more: no member ever touches the file system.
"""

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Self, cast

from pipeline.source import is_hidden, is_image, is_video

MAX_SIDECAR_BYTES: Final = 1 << 20
"""Sidecars beyond this are named in `meta`, not carried: they would travel with every clip."""

_MAX_HEADER_BYTES: Final = 1 << 20
_EXTENDED_HEADERS: Final = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)
_KEY: Final = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_WEBDATASET_META: Final = re.compile(r"__[^/]*__(?:$|/)")
_FORMAT_ERRORS: Final = (
    *(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError),
    *(ValueError, RecursionError),  # of numbers that are none, and of headers upon headers
)
_EMPTY_READS: Final = 16
"""At a tar's end tarfile reads nothing some times; a size beyond the end, for ever."""


class DamagedTar(Exception):
    """The tar ends too early, or is none; `key` is the sample that the damage hit, if one."""

    def __init__(self, detail: str, *, truncated: bool, key: str | None = None) -> None:
        super().__init__(detail)
        self.truncated = truncated
        self.key = key


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample. `data` is None where it was not read; `problem` says why."""

    name: str
    extension: str
    size: int
    data: bytes | None = None
    problem: str | None = None
    too_large: bool = False


@dataclass(slots=True)
class Group:
    """Neighbouring members of one key, in the tar's order; no extension comes twice."""

    key: str
    members: list[Member] = field(default_factory=list)

    @property
    def extensions(self) -> set[str]:
        """The extensions of its members."""
        return {member.extension for member in self.members}


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and extension of a member, or None if it belongs to no sample."""
    match = _KEY.match(name)
    if match is None or _WEBDATASET_META.match(name) or is_hidden(name):
        return None
    return match[1], match[2].lower()


def read_groups(file: BinaryIO, *, max_video_bytes: int, images: bool = False) -> Iterator[Group]:
    """Yield the samples of a tar, compressed or not, reading forward only.

    Args:
        file: opened for reading; it need not seek.
        max_video_bytes: larger videos are passed over, never held in memory.
        images: whether that limit, not the sidecars', holds for images.

    Raises:
        DamagedTar: after the last whole sample. Where the tar breaks off between two members, the
            last sample counts as whole if it has every extension that the one before it had.
        StoreError: the store failed; that says nothing about the tar.
    """
    group: Group | None = None
    usual: set[str] = set()
    try:
        for key, member in _members(file, max_video_bytes, images):
            if group is not None and (group.key != key or member.extension in group.extensions):
                yield group
                usual = group.extensions
                group = None
            group = group or Group(key)
            group.members.append(member)
    except DamagedTar as damage:
        if group is not None:
            whole = group.extensions >= usual if damage.key is None else damage.key != group.key
            if whole:
                yield group
            else:
                damage.key = group.key
        raise
    if group is not None:
        yield group


def _members(file: BinaryIO, max_video_bytes: int, images: bool) -> Iterator[tuple[str, Member]]:
    """Yield every member that belongs to a sample, with its key."""
    key: str | None = None
    try:
        # Names that are not UTF-8 must not bring lone surrogates into keys: Arrow refuses them.
        with tarfile.open(
            fileobj=cast("BinaryIO", _Ending(file)),
            mode="r|*",
            tarinfo=_Header,
            encoding="utf-8",
            errors="backslashreplace",
        ) as tar:
            while (info := tar.next()) is not None:
                # tarfile keeps every header it saw; in a long tar that is its memory.
                tar.members = []  # type: ignore[attr-defined]
                name = split_name(info.name)
                if name is None or info.isdir():
                    continue
                key, extension = name
                yield key, _member(tar, info, extension, max_video_bytes, images)
                key = None
    except _FORMAT_ERRORS as error:
        truncated = "unexpected end of data" in str(error) or isinstance(error, EOFError)
        raise DamagedTar(str(error), truncated=truncated, key=key) from error


def _member(
    tar: tarfile.TarFile,
    info: tarfile.TarInfo,
    extension: str,
    max_video_bytes: int,
    images: bool,
) -> Member:
    if not info.isreg():
        problem = f"{info.name} is no regular file; links in a tar are not followed"
        return Member(info.name, extension, info.size, problem=problem)
    is_media = is_video(info.name) or (images and is_image(info.name))
    limit = max_video_bytes if is_media else MAX_SIDECAR_BYTES
    if info.size > limit:
        problem = f"{info.name} has {info.size} bytes, the limit is {limit}"
        return Member(info.name, extension, info.size, problem=problem, too_large=True)
    content = tar.extractfile(info)
    assert content is not None
    return Member(info.name, extension, info.size, data=content.read())


class _Ending:
    """A file whose end, read again and again, is an error: tarfile skips without looking."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _EMPTY_READS

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if not data and size:
            self._left -= 1
            if not self._left:
                raise EOFError("unexpected end of data: a member is larger than what is left")
        return data


class _Header(tarfile.TarInfo):
    """A header block that raises where tarfile would take damage for the end of the tar."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if len(buf) < tarfile.BLOCKSIZE:
            raise DamagedTar("unexpected end of data: no end mark", truncated=True)
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise DamagedTar(f"bad header: {error}", truncated=False) from error
        if header.type in _EXTENDED_HEADERS and header.size > _MAX_HEADER_BYTES:
            raise DamagedTar(f"a name of {header.size} bytes", truncated=False)
        return header

    def _proc_member(self, archive: tarfile.TarFile) -> Self:
        try:
            return super()._proc_member(archive)  # type: ignore[misc, no-any-return]
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise DamagedTar(f"bad header: {error}", truncated=False) from error
