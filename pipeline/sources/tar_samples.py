"""A tar as a stream of samples: its members grouped by WebDataset's rule, up to any damage.

A member's key is its path up to the first dot of its base name. Its extension is the rest, in lower
case. Neighbouring members with the same key are one sample. Names are only keys: no member is ever
written to the file system. One sample is in memory at a time, and its size is limited.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Literal

from pipeline.config.source import VideoSource
from pipeline.config.tracks import TrackConfig
from pipeline.errors import StoreError
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Sample
from pipeline.sources.loose_files import max_bytes
from pipeline.sources.media_types import is_hidden, is_image, is_video
from pipeline.sources.sidecars import MAX_SIDECARS_BYTES, Sidecars, max_sidecar_bytes
from pipeline.sources.tar_members import TarMember, TarMembers
from pipeline.sources.tar_stream import DamagedTar, TarPastLimit
from pipeline.storage.files import FileRefused, open_file

MAX_MEMBERS: Final = 10_000
"""Maximum number of members of one sample: more than one for each frame of a five-minute clip."""


MAX_NAMES_BYTES: Final = 1 << 20
"""Maximum length of the names of one sample's members together, in characters."""


MAX_KEPT_BYTES: Final = 1 << 30
"""Maximum memory for the keys and the quarantine records of one tar."""


SAMPLE_BYTES: Final = 1000
"""Number of bytes that each sample counts beside its key and its detail: at most a million samples
fit into one tar."""


_MAX_NAMES_SHOWN: Final = 1000
"""Maximum number of characters of a sample's names that its quarantine record repeats."""


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


def tar_samples(
    unit: str,
    uri: str,
    source: VideoSource,
    images: bool,
    tracks: Sequence[TrackConfig] = (),
) -> Iterator[Sample | Quarantined]:
    """Yield the samples of a tar, then the damage that ends it early, if there is any.

    Raises:
        StoreError: the store failed, or the tar is missing; retry the unit later.
    """
    seen: set[str] = set()
    kept = 0
    try:
        with open_file(uri, source.storage_options) as file:
            limit = max_bytes(source)
            for group in read_groups(file, max_video_bytes=limit, images=images, tracks=tracks):
                outcome: Sample | Quarantined
                try:
                    if group.key in seen:
                        names = _names(group)
                        detail = f"{names}: not next to the members that had this key before"
                        raise QuarantineError("read", "duplicate_key", detail)
                    seen.add(group.key)
                    outcome = _group_sample(group, images, source.max_meta_kb, tracks)
                except QuarantineError as error:
                    outcome = Quarantined.of(error, unit=unit, key=group.key)
                    kept += len(outcome.detail)
                kept += SAMPLE_BYTES + 2 * len(group.key)
                if kept > MAX_KEPT_BYTES:
                    mib = MAX_KEPT_BYTES >> 20
                    detail = f"keys and faults take more than {mib} MiB; make several tars of it"
                    raise TarPastLimit(detail, key=group.key)
                yield outcome
    except FileNotFoundError as error:
        raise StoreError(f"{uri}: gone since it was planned") from error
    except (DamagedTar, FileRefused) as error:
        damage = error if isinstance(error, DamagedTar) else DamagedTar(str(error), truncated=False)
        reason = "tar_truncated" if damage.truncated else "tar_unreadable"
        if isinstance(damage, TarPastLimit):
            reason = "tar_past_limit"
        detail = f"{uri}: {damage}; {len(seen)} samples are before it"
        fault = QuarantineError("read", reason, detail)
        yield Quarantined.of(fault, unit=unit, key=damage.key or posixpath.basename(uri))


def _names(group: MemberGroup) -> str:
    names = ", ".join(member.name for member in group.members)
    return names if len(names) <= _MAX_NAMES_SHOWN else f"{names[:_MAX_NAMES_SHOWN]}…"


def _group_sample(
    group: MemberGroup, images: bool, max_meta_kb: int, tracks: Sequence[TrackConfig]
) -> Sample:
    videos = [member for member in group.members if is_video(member.name)]
    if images and not videos:
        videos = [member for member in group.members if is_image(member.name)]
        if len(videos) > 1:  # `a.png` is the picture, `a.mask.png` is its sidecar
            videos = [member for member in videos if "." not in member.extension] or videos
    if len(videos) != 1:
        reason = "several_videos" if videos else "no_video"
        raise QuarantineError("read", reason, _names(group))
    [video] = videos
    if video.data is None:
        reason = "too_large" if video.too_large else "no_video"
        raise QuarantineError("read", reason, video.problem or "")
    sidecars = Sidecars()
    carried = 0
    for member in group.members:
        if member is video:
            continue
        problem = member.problem
        limit = max_sidecar_bytes(member.extension, tracks)
        if member.data is not None and len(member.data) > limit:
            problem = f"{member.name} has {member.size} bytes, the limit is {limit}"
        elif member.data is not None and carried + len(member.data) > MAX_SIDECARS_BYTES:
            problem = f"{member.name}: more than {MAX_SIDECARS_BYTES} bytes of sidecars"
        if problem is not None or member.data is None:
            sidecars.problems[member.extension] = problem or ""
        else:
            carried += len(member.data)
            sidecars.content[member.extension] = member.data
    found = sidecars.tracks(tracks, group.key)
    caption, meta = sidecars.caption_and_meta(max_meta_kb)
    return Sample(
        key=group.key,
        video=video.data,
        video_name=video.name,
        caption=caption,
        meta=meta,
        is_image=is_image(video.name),
        tracks=found,
    )
