"""Read: from one work unit to its samples, in an order that follows from the input alone.

Every sample of the unit comes out exactly once, as a `Sample` or as a `Quarantined` of stage
`read`, and counts as one sample read. Damaged data is an outcome; a store that fails is not: it
raises, the unit is tried again, and nothing is quarantined because credentials ran out.
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.config import ListConfig
from pipeline.errors import StoreError
from pipeline.file_samples import file_sample, read_fault
from pipeline.files import open_file
from pipeline.list_samples import list_samples
from pipeline.records import Quarantined, Sample, WorkUnit
from pipeline.sidecars import Sidecars
from pipeline.source import is_image, is_video
from pipeline.tar import MAX_SIDECAR_BYTES, MAX_SIDECARS_BYTES, Group, read_groups
from pipeline.tar_bytes import DamagedTar, TarPastLimit

_MAX_NAMES_SHOWN: Final = 1000
"""Characters of a sample's names that its quarantine record repeats."""
_MAX_KEPT_BYTES: Final = 1 << 30
"""What the keys and the quarantine of one tar may take until it is done."""
_KEPT_BYTES: Final = 1000
"""Of each sample, beside its key and its detail: so a million of them is the most."""


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


def _names(group: Group) -> str:
    names = ", ".join(member.name for member in group.members)
    return names if len(names) <= _MAX_NAMES_SHOWN else f"{names[:_MAX_NAMES_SHOWN]}…"


def _group_sample(unit: str, group: Group, images: bool) -> Sample | Quarantined:
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
