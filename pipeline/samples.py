"""Read: from one work unit to its samples, in an order that follows from the input alone.

Every sample of the unit comes out exactly once, as a `Sample` or as a `Quarantined` of stage
`read`, and counts as one sample read. Damaged data is an outcome; a store that fails is not: it
raises, the unit is tried again, and nothing is quarantined because credentials ran out.
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import ListConfig
from pipeline.errors import StoreError
from pipeline.file_samples import file_sample, read_fault
from pipeline.list_samples import list_samples
from pipeline.records import Quarantined, Sample, WorkUnit
from pipeline.sidecars import Sidecars
from pipeline.source import is_image, is_video
from pipeline.storage import open_file
from pipeline.tar import MAX_SIDECAR_BYTES, DamagedTar, Group, read_groups


def read_samples(
    unit: WorkUnit,
    *,
    storage_options: Mapping[str, Any] | None = None,
    max_video_mb: float,
    lists: ListConfig | None = None,
    images: bool = False,
) -> Iterator[Sample | Quarantined]:
    """Yield the samples of a unit; at most two videos are in memory at a time.

    Args:
        unit: a tar, or a run of loose files or of a list's rows.
        storage_options: passed to the fsspec file system of the unit's URIs.
        max_video_mb: videos above this many MB (10^6 bytes) are quarantined unread.
        lists: how lists are read.
        images: whether a sample may be an image.

    Raises:
        StoreError: the store failed, or the tar is gone; the unit should be tried again.
    """
    max_video_bytes = int(max_video_mb * 1_000_000)
    if unit.tar_uri is not None:
        yield from _tar_samples(unit.unit, unit.tar_uri, storage_options, max_video_bytes, images)
    for file in unit.files:
        yield file_sample(unit.unit, file, storage_options, max_video_bytes)
    if unit.rows is not None:
        yield from list_samples(
            unit.unit, unit.rows, lists or ListConfig(), storage_options, max_video_bytes, images
        )


def _tar_samples(
    unit: str,
    uri: str,
    storage_options: Mapping[str, Any] | None,
    max_video_bytes: int,
    images: bool,
) -> Iterator[Sample | Quarantined]:
    seen: set[str] = set()
    try:
        file = open_file(uri, storage_options)
    except FileNotFoundError as error:
        raise StoreError(f"{uri}: gone since it was planned") from error
    with file:
        try:
            for group in read_groups(file, max_video_bytes=max_video_bytes, images=images):
                if group.key in seen:
                    names = ", ".join(member.name for member in group.members)
                    detail = f"{names}: not next to the members that had this key before"
                    yield read_fault(unit, group.key, "duplicate_key", detail)
                else:
                    seen.add(group.key)
                    yield _group_sample(unit, group, images)
        except DamagedTar as damage:
            reason = "tar_truncated" if damage.truncated else "tar_unreadable"
            key = damage.key or posixpath.basename(uri)
            detail = f"{uri}: {damage}; {len(seen)} samples stand before it"
            yield read_fault(unit, key, reason, detail)


def _group_sample(unit: str, group: Group, images: bool) -> Sample | Quarantined:
    videos = [member for member in group.members if is_video(member.name)]
    if images and not videos:
        videos = [member for member in group.members if is_image(member.name)]
        if len(videos) > 1:  # `a.png` is the picture, `a.mask.png` stands beside it
            videos = [member for member in videos if "." not in member.extension] or videos
    names = ", ".join(member.name for member in group.members)
    if not videos:
        return read_fault(unit, group.key, "no_video", names)
    if len(videos) > 1:
        return read_fault(unit, group.key, "several_videos", names)
    [video] = videos
    if video.data is None:
        reason = "too_large" if video.too_large else "no_video"
        return read_fault(unit, group.key, reason, video.problem or "")
    sidecars = Sidecars()
    for member in group.members:
        if member is video:
            continue
        if member.data is None:
            sidecars.problems[member.extension] = member.problem or ""
        elif len(member.data) > MAX_SIDECAR_BYTES:
            problem = f"{member.name} has {member.size} bytes, the limit is {MAX_SIDECAR_BYTES}"
            sidecars.problems[member.extension] = problem
        else:
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
