"""Streams a tar: its members grouped into samples by WebDataset's rule, and where it is damaged.

A member's key is its path up to the first dot of its base name, its extension the rest, in lower
case; neighbours with one key are one sample. Names are keys and nothing more: no member ever
touches the file system. One sample is in memory at a time, and that within limits.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, Literal

from pipeline.errors import StoreError
from pipeline.quarantine import Quarantined
from pipeline.records import Sample
from pipeline.sources.faults import read_fault
from pipeline.sources.media_types import is_hidden, is_image, is_video
from pipeline.sources.sidecars import Sidecars
from pipeline.sources.tar_members import TarMember, TarMembers
from pipeline.sources.tar_stream import DamagedTar, TarPastLimit
from pipeline.storage.files import open_file

MAX_SIDECAR_BYTES: Final = 1 << 20
"""Sidecars beyond this are named in `meta`, not carried: they would travel with every clip."""


MAX_SIDECARS_BYTES: Final = 16 << 20
"""Likewise for all sidecars of one sample together."""


_MAX_MEMBERS: Final = 10_000
"""Of one sample: more than one for each frame of a clip of five minutes."""


_MAX_NAMES_BYTES: Final = 1 << 20
"""Of all members of one sample, in characters; a hundred for each of as many as there may be."""


_Kind = Literal["video", "image", "sidecar"]


_WEBDATASET_META: Final = re.compile(r"__[^/]*__(?:$|/)")


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
class MemberGroup:
    """Neighbouring members of one key, in the tar's order; no extension comes twice."""

    key: str
    members: list[Member] = field(default_factory=list)
    extensions: set[str] = field(default_factory=set)
    """The extensions of its members."""
    names_bytes: int = 0
    held_bytes: Counter[_Kind] = field(default_factory=Counter)
    """Of the content that was read."""

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
    file: BinaryIO, *, max_video_bytes: int, images: bool = False
) -> Iterator[MemberGroup]:
    """Yield the samples of a tar, compressed or not, reading forward only.

    Args:
        file: opened for reading; it need not seek.
        max_video_bytes: larger videos are passed over, never held in memory; likewise the videos of
            one sample that go beyond it together.
        images: whether that limit, not the sidecars', holds for images.

    Raises:
        DamagedTar: after the last whole sample. Where the tar breaks off between two members, the
            last sample counts as whole if it has every extension that the one before it had.
        TarPastLimit: likewise, where reading on would take too much.
        StoreError: the store failed; that says nothing about the tar.
    """
    group: MemberGroup | None = None
    usual: set[str] = set()
    try:
        tar = TarMembers(file)
        while (found := tar.next()) is not None:
            name = split_name(found.name)
            if name is None or found.is_folder:
                continue
            key, extension = name
            same = group is not None and group.key == key and extension not in group.extensions
            into = group if group is not None and same else MemberGroup(key)
            kind: _Kind = "video" if is_video(found.name) else "sidecar"
            if images and is_image(found.name):
                kind = "image"
            _add(into, tar, found, extension, kind, max_video_bytes)
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
    if group is not None:
        yield group


def _add(
    group: MemberGroup,
    tar: TarMembers,
    found: TarMember,
    extension: str,
    kind: _Kind,
    max_video_bytes: int,
) -> None:
    """Read a member into its sample; damage on the way is the sample's."""
    if len(group.members) == _MAX_MEMBERS or group.names_bytes > _MAX_NAMES_BYTES:
        raise TarPastLimit(
            f"more than {_MAX_MEMBERS} members, or {_MAX_NAMES_BYTES} characters in their names, in"
            " one sample; put what belongs to one video into fewer members",
            key=group.key,
        )
    sidecar = kind == "sidecar"
    limit = MAX_SIDECAR_BYTES if sidecar else max_video_bytes
    together = MAX_SIDECARS_BYTES if sidecar else max_video_bytes
    data = problem = None
    if not found.is_regular:
        problem = f"{found.name} is no regular file; links in a tar are not followed"
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
    too_large = problem is not None and found.is_regular
    group.add(Member(found.name, extension, found.size, data, problem, too_large), kind)


_MAX_NAMES_SHOWN: Final = 1000
"""Characters of a sample's names that its quarantine record repeats."""


_MAX_KEPT_BYTES: Final = 1 << 30
"""What the keys and the quarantine of one tar may take until it is done."""


_KEPT_BYTES: Final = 1000
"""Of each sample, beside its key and its detail: so a million of them is the most."""


def _tar_samples(
    unit: str,
    uri: str,
    storage_options: Mapping[str, Any] | None,
    max_video_bytes: int,
    images: bool,
) -> Iterator[Sample | Quarantined]:
    seen: set[str] = set()
    kept = 0
    try:
        file = open_file(uri, storage_options)
    except FileNotFoundError as error:
        raise StoreError(f"{uri}: gone since it was planned") from error
    with file:
        try:
            for group in read_groups(file, max_video_bytes=max_video_bytes, images=images):
                sample: Sample | Quarantined
                if group.key in seen:
                    detail = f"{_names(group)}: not next to the members that had this key before"
                    sample = read_fault(unit, group.key, "duplicate_key", detail)
                else:
                    seen.add(group.key)
                    sample = _group_sample(unit, group, images)
                kept += _KEPT_BYTES + 2 * len(group.key)
                kept += len(sample.detail) if isinstance(sample, Quarantined) else 0
                if kept > _MAX_KEPT_BYTES:
                    mib = _MAX_KEPT_BYTES >> 20
                    detail = f"keys and faults take more than {mib} MiB; make several tars of it"
                    raise TarPastLimit(detail, key=group.key)
                yield sample
        except DamagedTar as damage:
            reason = "tar_truncated" if damage.truncated else "tar_unreadable"
            if isinstance(damage, TarPastLimit):
                reason = "tar_past_limit"
            key = damage.key or posixpath.basename(uri)
            detail = f"{uri}: {damage}; {len(seen)} samples stand before it"
            yield read_fault(unit, key, reason, detail)


def _names(group: MemberGroup) -> str:
    names = ", ".join(member.name for member in group.members)
    return names if len(names) <= _MAX_NAMES_SHOWN else f"{names[:_MAX_NAMES_SHOWN]}…"


def _group_sample(unit: str, group: MemberGroup, images: bool) -> Sample | Quarantined:
    videos = [member for member in group.members if is_video(member.name)]
    if images and not videos:
        videos = [member for member in group.members if is_image(member.name)]
        if len(videos) > 1:  # `a.png` is the picture, `a.mask.png` stands beside it
            videos = [member for member in videos if "." not in member.extension] or videos
    if not videos:
        return read_fault(unit, group.key, "no_video", _names(group))
    if len(videos) > 1:
        return read_fault(unit, group.key, "several_videos", _names(group))
    [video] = videos
    if video.data is None:
        reason = "too_large" if video.too_large else "no_video"
        return read_fault(unit, group.key, reason, video.problem or "")
    sidecars = Sidecars()
    carried = 0
    for member in group.members:
        if member is video:
            continue
        if member.data is None:
            sidecars.problems[member.extension] = member.problem or ""
        elif len(member.data) > MAX_SIDECAR_BYTES:
            problem = f"{member.name} has {member.size} bytes, the limit is {MAX_SIDECAR_BYTES}"
            sidecars.problems[member.extension] = problem
        elif carried + len(member.data) > MAX_SIDECARS_BYTES:  # with images that stand beside it
            problem = f"{member.name}: more than {MAX_SIDECARS_BYTES} bytes of sidecars"
            sidecars.problems[member.extension] = problem
        else:
            carried += len(member.data)
            sidecars.content[member.extension] = member.data
    caption, meta = sidecars.caption_and_meta()
    return Sample(
        key=group.key,
        video=video.data,
        video_name=video.name,
        caption=caption,
        meta=meta,
        is_image=is_image(video.name),
    )
