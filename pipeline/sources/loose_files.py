"""One loose file with its sidecars, as a sample."""

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pipeline.config.source import VideoSource
from pipeline.config.tracks import TrackConfig
from pipeline.errors import StoreError
from pipeline.quarantine import QuarantineError
from pipeline.records import LooseFile, Sample
from pipeline.sources.media_types import is_image
from pipeline.sources.sidecars import Sidecars, max_sidecar_bytes
from pipeline.sources.text import escaped_name, valid_text
from pipeline.storage import files
from pipeline.storage.local_disk import blames_file


def file_sample(file: LooseFile, source: VideoSource, tracks: Sequence[TrackConfig] = ()) -> Sample:
    """Return a file's sample: its path if the file is local, otherwise its bytes.

    Raises:
        QuarantineError: the file is missing, cannot be read, or is too large; it lacks a track
            that is required.
        StoreError: the store failed.
    """
    uri, options = file.uri, source.storage_options
    video = _content(uri, max_bytes(source), options, as_path=True)
    sidecars = Sidecars()
    path = files.local_path(uri)
    places = [path, *filter(None, (one.of(path) for one in source.beside))]
    stems = [posixpath.splitext(place)[0] for place in places]
    lacking = set(stems[1:])
    for name in file.sidecar_uris:
        path = files.local_path(name)
        stem = max((stem for stem in stems if path.startswith(f"{stem}.")), key=len)
        lacking.discard(stem)
        extension = escaped_name(path.removeprefix(f"{stem}.")).lower()
        limit = max_sidecar_bytes(extension, tracks)
        sidecars.add(extension, name, partial(_content, name, limit, options))
    for stem in sorted(lacking):
        sidecars.lack(f"no file {files.portable(stem)}.*")
    found = sidecars.tracks(tracks, file.key)
    caption, meta = sidecars.caption_and_meta(source.max_meta_kb, source.caption)
    name = posixpath.basename(video if isinstance(video, str) else uri)
    image = is_image(name)
    return Sample(
        key=file.key,
        video=video,
        video_name=name,
        caption=caption,
        meta=meta,
        is_image=image,
        tracks=found,
    )


def max_bytes(source: VideoSource) -> int:
    """Return the maximum size of a video."""
    return int(source.max_video_mb * 1_000_000)


def require_size(name: str, size: int, limit: int) -> None:
    """Raise QuarantineError for a file that is larger than a limit."""
    if size > limit:
        raise QuarantineError("read", "too_large", f"{name} has {size} bytes, the limit is {limit}")


@contextmanager
def file_faults(uri: str) -> Iterator[None]:
    """Raise QuarantineError for an error that lasts, and StoreError for one that can pass."""
    try:
        yield
    except OSError as error:
        if files.is_local(uri) and not isinstance(error, files.FileRefused):
            system = error.__cause__ if isinstance(error.__cause__, OSError) else error
            lasting = blames_file(files.canonical_uri(uri), system)
        else:
            lasting = isinstance(error, (FileNotFoundError, files.FileRefused))
        if lasting:
            raise QuarantineError("read", "file_unreadable", str(error)) from error
        if isinstance(error, FileNotFoundError):
            raise StoreError(
                f"{uri}: missing, and its folder is missing or empty; check that its file system"
                " is mounted on every node"
            ) from error
        raise


def _content(uri: str, limit: int, options: Any, *, as_path: bool = False) -> Any:
    """Return a file's bytes, or the path of a local file if it is asked for."""
    local = files.is_local(uri)
    with file_faults(uri):
        size = files.file_size(uri, options)
        require_size(uri, size, limit)
        if as_path and local and size:
            files.open_file(uri).close()  # the decoder opens the path later: check it here
            path = files.canonical_uri(uri)
            if path == valid_text(path):
                return path
        return files.read_file(uri, options, size)
