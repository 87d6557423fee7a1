"""The samples of a tar: each group of its members with one video, joined by parallel tars."""

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

from pipeline.config.source import VideoSource
from pipeline.config.tracks import TrackConfig
from pipeline.errors import StoreError
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Sample
from pipeline.sources.loose_files import max_bytes
from pipeline.sources.media_types import is_image, is_video
from pipeline.sources.parallel_tar import ParallelTar
from pipeline.sources.sidecars import MAX_SIDECARS_BYTES, Sidecars, max_sidecar_bytes
from pipeline.sources.tar_groups import Member, MemberGroup, read_groups
from pipeline.sources.tar_stream import DamagedTar, TarPastLimit
from pipeline.storage.files import FileRefused, open_file

MAX_KEPT_BYTES: Final = 1 << 30
"""Maximum memory for the keys and the quarantine records of one tar."""


SAMPLE_BYTES: Final = 1000
"""Number of bytes that each sample counts beside its key and its detail: at most a million samples
fit into one tar."""


_MAX_NAMES_SHOWN: Final = 1000
"""Maximum number of characters of a sample's names that its quarantine record repeats."""


def tar_samples(
    unit: str,
    uri: str,
    source: VideoSource,
    images: bool,
    tracks: Sequence[TrackConfig] = (),
    beside: Sequence[str] = (),
) -> Iterator[Sample | Quarantined]:
    """Yield the samples of a tar, then the damage that ends it early, if there is any.

    Args:
        unit: name of the unit, for its quarantine records.
        uri: URI of the tar.
        source: limits, and where captions are.
        images: whether images are samples.
        tracks: tracks that are read from sidecars.
        beside: URIs of parallel tars whose members join the samples of their keys.

    Raises:
        StoreError: the store failed, or the tar is missing; retry the unit later.
    """
    seen: set[str] = set()
    kept = 0
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open_file(uri, source.storage_options))
            others = [
                stack.enter_context(ParallelTar(other, source.storage_options, tracks))
                for other in beside
            ]
            limit = max_bytes(source)
            for group in read_groups(file, max_video_bytes=limit, images=images, tracks=tracks):
                outcome: Sample | Quarantined
                try:
                    if group.key in seen:
                        names = _names(group)
                        detail = f"{names}: not next to the members that had this key before"
                        raise QuarantineError("read", "duplicate_key", detail)
                    seen.add(group.key)
                    outcome = _group_sample(group, images, source, tracks, others)
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
        raise StoreError(f"{uri}: missing, although it existed when the job was planned") from error
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
    group: MemberGroup,
    images: bool,
    source: VideoSource,
    tracks: Sequence[TrackConfig],
    others: Sequence[ParallelTar],
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
    members = [member for member in group.members if member is not video]
    for other in others:
        joined, lacking = other.members(group.key)
        members += joined
        if lacking is not None:
            sidecars.lack(lacking)
    carried = 0
    for member in members:
        content = partial(_content, member, carried, max_sidecar_bytes(member.extension, tracks))
        carried += sidecars.add(member.extension, member.name, content)
    found = sidecars.tracks(tracks, group.key)
    caption, meta = sidecars.caption_and_meta(source.max_meta_kb, source.caption)
    return Sample(
        key=group.key,
        video=video.data,
        video_name=video.name,
        caption=caption,
        meta=meta,
        is_image=is_image(video.name),
        tracks=found,
    )


def _content(member: Member, carried: int, limit: int) -> bytes:
    """Return a sidecar's content; raise ValueError if the sample does not hold it."""
    problem = member.problem
    if member.data is not None and len(member.data) > limit:
        problem = f"{member.name} has {member.size} bytes, the limit is {limit}"
    elif member.data is not None and carried + len(member.data) > MAX_SIDECARS_BYTES:
        problem = f"{member.name}: more than {MAX_SIDECARS_BYTES} bytes of sidecars"
    if problem is not None or member.data is None:
        raise ValueError(problem or "")
    return member.data
