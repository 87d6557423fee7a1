"""One loose file with its sidecars, as a sample."""

import posixpath
from collections.abc import Mapping
from typing import Any

from pipeline.config.source import VideoSource
from pipeline.quarantine import QuarantineError
from pipeline.records import LooseFile, Sample
from pipeline.sources.media_types import is_image
from pipeline.sources.sidecars import MAX_SIDECAR_BYTES, Sidecars
from pipeline.sources.text import valid_text
from pipeline.storage.files import (
    FileRefused,
    canonical_uri,
    file_size,
    is_local,
    open_file,
    read_file,
)


def file_sample(file: LooseFile, source: VideoSource) -> Sample:
    """Return a file's sample: its path if the file is local, otherwise its bytes.

    Raises:
        QuarantineError: the file is missing, cannot be read, or is too large.
        StoreError: the store failed.
    """
    options = source.storage_options
    local = is_local(file.uri)
    video: bytes | str
    try:
        size = file_size(file.uri, options)
        require_size(file.uri, size, source)
        if local:
            open_file(file.uri).close()  # the decoder opens the path later: check it here
            path = canonical_uri(file.uri)
            video = path if path == valid_text(path) else read_file(path)
        else:
            video = read_file(file.uri, options)
    except OSError as error:
        if not local and not isinstance(error, (FileNotFoundError, FileRefused)):
            raise
        raise QuarantineError("read", "file_unreadable", str(error)) from error
    caption, meta = _read_sidecars(file, options).caption_and_meta()
    name = posixpath.basename(file.uri)
    return Sample(
        key=file.key,
        video=video,
        video_name=name,
        caption=caption,
        meta=meta,
        is_image=is_image(name),
    )


def require_size(name: str, size: int, source: VideoSource) -> None:
    """Raise QuarantineError for a video that is larger than the source's limit."""
    limit = int(source.max_video_mb * 1_000_000)
    if size > limit:
        raise QuarantineError("read", "too_large", f"{name} has {size} bytes, the limit is {limit}")


def _read_sidecars(file: LooseFile, options: Mapping[str, Any] | None) -> Sidecars:
    stem = posixpath.splitext(file.uri)[0]
    sidecars = Sidecars()
    for uri in file.sidecar_uris:
        extension = uri.removeprefix(f"{stem}.").lower()
        try:
            size = file_size(uri, options)
            if size > MAX_SIDECAR_BYTES:
                problem = f"{uri} has {size} bytes, the limit is {MAX_SIDECAR_BYTES}"
                sidecars.problems[extension] = problem
            else:
                sidecars.content[extension] = read_file(uri, options)
        except OSError as error:
            if not is_local(uri) and not isinstance(error, (FileNotFoundError, FileRefused)):
                raise
            sidecars.problems[extension] = str(error)
    return sidecars
