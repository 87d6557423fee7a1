"""Read: from one work unit to its samples, in an order that follows from the input alone.

Every sample of the unit comes out exactly once, as a `Sample` or as a `Quarantined` of stage
`read`, and counts as one sample read. Damaged data is an outcome; a store that fails is not: it
raises, the unit is tried again, and nothing is quarantined because credentials ran out.
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import StoreError
from pipeline.records import LooseFile, Quarantined, Sample, WorkUnit
from pipeline.sidecars import Sidecars
from pipeline.source import is_video
from pipeline.storage import file_size, is_local, open_file, read_file
from pipeline.tar import MAX_SIDECAR_BYTES, DamagedTar, Group, read_groups


def read_samples(
    unit: WorkUnit,
    *,
    storage_options: Mapping[str, Any] | None = None,
    max_video_mb: float,
) -> Iterator[Sample | Quarantined]:
    """Yield the samples of a unit; at most one video is in memory at a time.

    Args:
        unit: a tar, or a run of loose files.
        storage_options: passed to the fsspec file system of the unit's URIs.
        max_video_mb: videos above this many MB (10^6 bytes) are quarantined unread.

    Raises:
        StoreError: the store failed, or the tar is gone; the unit should be tried again.
    """
    max_video_bytes = int(max_video_mb * 1_000_000)
    if unit.tar_uri is not None:
        yield from _tar_samples(unit.unit, unit.tar_uri, storage_options, max_video_bytes)
    for file in unit.files:
        yield _file_sample(unit.unit, file, storage_options, max_video_bytes)


def _quarantined(unit: str, key: str, reason: str, detail: str) -> Quarantined:
    return Quarantined(
        unit=unit, key=key, clip_index=None, stage="read", reason=reason, detail=detail
    )


def _tar_samples(
    unit: str, uri: str, storage_options: Mapping[str, Any] | None, max_video_bytes: int
) -> Iterator[Sample | Quarantined]:
    seen: set[str] = set()
    try:
        file = open_file(uri, storage_options)
    except FileNotFoundError as error:
        raise StoreError(f"{uri}: gone since it was planned") from error
    with file:
        try:
            for group in read_groups(file, max_video_bytes=max_video_bytes):
                if group.key in seen:
                    names = ", ".join(member.name for member in group.members)
                    detail = f"{names}: not next to the members that had this key before"
                    yield _quarantined(unit, group.key, "duplicate_key", detail)
                else:
                    seen.add(group.key)
                    yield _group_sample(unit, group)
        except DamagedTar as damage:
            reason = "tar_truncated" if damage.truncated else "tar_unreadable"
            key = damage.key or posixpath.basename(uri)
            detail = f"{uri}: {damage}; {len(seen)} samples stand before it"
            yield _quarantined(unit, key, reason, detail)


def _group_sample(unit: str, group: Group) -> Sample | Quarantined:
    videos = [member for member in group.members if is_video(member.name)]
    names = ", ".join(member.name for member in group.members)
    if not videos:
        return _quarantined(unit, group.key, "no_video", names)
    if len(videos) > 1:
        return _quarantined(unit, group.key, "several_videos", names)
    [video] = videos
    if video.data is None:
        reason = "too_large" if video.too_large else "no_video"
        return _quarantined(unit, group.key, reason, video.problem or "")
    sidecars = Sidecars()
    for member in group.members:
        if member is not video and member.data is not None:
            sidecars.content[member.extension] = member.data
        elif member is not video:
            sidecars.problems[member.extension] = member.problem or ""
    caption, meta = sidecars.caption_and_meta()
    return Sample(
        key=group.key, video=video.data, video_name=video.name, caption=caption, meta=meta
    )


def _file_sample(
    unit: str, file: LooseFile, storage_options: Mapping[str, Any] | None, max_video_bytes: int
) -> Sample | Quarantined:
    local = is_local(file.uri)
    video: bytes | str
    try:
        size = file_size(file.uri, storage_options)
        if size > max_video_bytes:
            detail = f"{file.uri} has {size} bytes, the limit is {max_video_bytes}"
            return _quarantined(unit, file.key, "too_large", detail)
        if local:
            open_file(file.uri).close()  # the decoder opens it by its path: find out here if it can
            video = file.uri
        else:
            video = read_file(file.uri, storage_options)
    except OSError as error:
        if not local and not isinstance(error, FileNotFoundError):
            raise
        return _quarantined(unit, file.key, "file_unreadable", str(error))
    caption, meta = _read_sidecars(file, storage_options).caption_and_meta()
    name = posixpath.basename(file.uri)
    return Sample(key=file.key, video=video, video_name=name, caption=caption, meta=meta)


def _read_sidecars(file: LooseFile, storage_options: Mapping[str, Any] | None) -> Sidecars:
    stem = posixpath.splitext(file.uri)[0]
    sidecars = Sidecars()
    for uri in file.sidecar_uris:
        extension = uri.removeprefix(f"{stem}.").lower()
        try:
            size = file_size(uri, storage_options)
            if size > MAX_SIDECAR_BYTES:
                problem = f"{uri} has {size} bytes, the limit is {MAX_SIDECAR_BYTES}"
                sidecars.problems[extension] = problem
            else:
                sidecars.content[extension] = read_file(uri, storage_options)
        except OSError as error:
            if not is_local(uri) and not isinstance(error, FileNotFoundError):
                raise
            sidecars.problems[extension] = str(error)
    return sidecars
