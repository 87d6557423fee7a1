"""A tar as a stream of groups: the members of one key, by WebDataset's rule, up to any damage.

A member's key is its path up to the first dot of its base name. Its extension is the rest, in lower
case. Neighbouring members with the same key are one sample. Names are only keys: no member is ever
written to the file system. One sample is in memory at a time, and its size is limited.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Literal

from pipeline.config.tracks import TrackConfig
from pipeline.sources.media_types import is_hidden, is_image, is_video
from pipeline.sources.sidecars import MAX_SIDECARS_BYTES, is_pickle, max_sidecar_bytes
from pipeline.sources.tar_members import TarMember, TarMembers
from pipeline.sources.tar_stream import DamagedTar, TarPastLimit

MAX_MEMBERS: Final = 10_000
"""Maximum number of members of one sample: more than one for each frame of a five-minute clip."""


MAX_NAMES_BYTES: Final = 1 << 20
"""Maximum length of the names of one sample's members together, in characters."""


_Kind = Literal["video", "image", "sidecar"]


_WEBDATASET_META: Final = re.compile(r"__[^/]*__(?:$|/)")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample. `data` is None if it was not read; `problem` says why."""

    name: str
    extension: str
    size: int
    data: bytes | None = None
    problem: str | None = None
    too_large: bool = False


@dataclass(slots=True)
class MemberGroup:
    """Neighbouring members of one key, in the tar's order; no extension comes twice."""

    key: str
    members: list[Member] = field(default_factory=list)
    extensions: set[str] = field(default_factory=set)
    """Extensions of its members."""
    names_bytes: int = 0
    held_bytes: Counter[_Kind] = field(default_factory=Counter)
    """Number of bytes of the content that was read, by kind."""

    def add(self, member: Member, kind: _Kind) -> None:
        """Append a member."""
        self.members.append(member)
        self.extensions.add(member.extension)
        self.names_bytes += len(member.name)
        self.held_bytes[kind] += len(member.data or b"")


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and extension of a member, or None if it belongs to no sample."""
    # WebDataset's expression says the same, in the square of the name's length.
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or _WEBDATASET_META.match(name) or is_hidden(name):
        return None
    return f"{folder}{slash}{stem}", extension.lower()


def read_groups(
    file: BinaryIO,
    *,
    max_video_bytes: int,
    images: bool = False,
    tracks: Sequence[TrackConfig] = (),
) -> Iterator[MemberGroup]:
    """Yield the samples of a tar, compressed or not, reading forward only.

    Args:
        file: opened for reading; it need not seek.
        max_video_bytes: maximum size of a video, and of all videos of one sample together; others
            are skipped and never held in memory.
        images: whether this limit applies to images, instead of the limit of sidecars.
        tracks: tracks of the job, whose sidecars can be larger than others.

    Raises:
        DamagedTar: after the last whole sample. If the tar breaks off between two members, the
            last sample counts as whole if it has every extension that the one before it had.
        TarPastLimit: after the last whole sample, if the rest would take too much memory or time.
        StoreError: the store failed; that says nothing about the tar.
    """
    group: MemberGroup | None = None
    usual: set[str] = set()
    try:
        tar = TarMembers(file)
        while True:
            if (found := tar.next()) is None:
                if group is not None:
                    yield group
                    group = None
                if not tar.another():
                    return
                continue
            name = split_name(found.name)
            if name is None or found.kind == "folder":
                continue
            key, extension = name
            same = group is not None and group.key == key and extension not in group.extensions
            into = group if group is not None and same else MemberGroup(key)
            kind: _Kind = "video" if is_video(found.name) else "sidecar"
            if images and is_image(found.name):
                kind = "image"
            limits = max_video_bytes, max_video_bytes
            if kind == "sidecar":
                limits = max_sidecar_bytes(extension, tracks), MAX_SIDECARS_BYTES
            _add(into, tar, found, extension, kind, limits)
            if group is not None and not same:
                yield group
                usual = group.extensions
            group = into
    except DamagedTar as damage:
        if group is not None:
            whole = group.extensions >= usual if damage.key is None else damage.key != group.key
            if whole:
                yield group
            else:
                damage.key = group.key
        raise


def _add(
    group: MemberGroup,
    tar: TarMembers,
    found: TarMember,
    extension: str,
    kind: _Kind,
    limits: tuple[int, int],
) -> None:
    """Read a member into its sample; damage on the way belongs to that sample.

    `limits` are the maximum size of the member, and of all of its kind in the sample.
    """
    if len(group.members) == MAX_MEMBERS or group.names_bytes > MAX_NAMES_BYTES:
        raise TarPastLimit(
            f"more than {MAX_MEMBERS} members, or {MAX_NAMES_BYTES} characters in their names, in"
            " one sample; put what belongs to one video into fewer members",
            key=group.key,
        )
    limit, together = limits
    data = problem = None
    if found.kind == "sparse":
        problem = f"{found.name} is a sparse member; pack the tar without --sparse"
    elif found.kind != "file":
        problem = f"{found.name} is not a regular file; links in a tar are not followed"
    elif kind == "sidecar" and is_pickle(extension):
        problem = f"{found.name} is a pickle, which is never read"
    elif found.size > limit:
        problem = f"{found.name} has {found.size} bytes, the limit is {limit}"
    elif group.held_bytes[kind] + found.size > together:
        problem = f"{found.name}: the sample's {kind}s have more than {together} bytes together"
    else:
        try:
            data = tar.read()
        except DamagedTar as damage:
            damage.key = group.key
            raise
    too_large = problem is not None and found.kind == "file"
    group.add(Member(found.name, extension, found.size, data, problem, too_large), kind)
