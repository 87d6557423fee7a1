"""Read one loose file with its sidecars, as a sample or as the record of why it is none."""

import posixpath
from collections.abc import Mapping
from typing import Any

from pipeline.quarantine import Quarantined
from pipeline.records import LooseFile, Sample
from pipeline.sources.faults import read_fault
from pipeline.sources.media_types import is_image
from pipeline.sources.sidecars import Sidecars
from pipeline.sources.tar_samples import MAX_SIDECAR_BYTES
from pipeline.storage.files import file_size, is_local, open_file, read_file


def file_sample(
    unit: str, file: LooseFile, storage_options: Mapping[str, Any] | None, max_video_bytes: int
) -> Sample | Quarantined:
    """Return a file's sample: its path where that is local, else its bytes.

    Raises:
        StoreError: the store failed.
    """
    local = is_local(file.uri)
    video: bytes | str
    try:
        size = file_size(file.uri, storage_options)
        if size > max_video_bytes:
            detail = f"{file.uri} has {size} bytes, the limit is {max_video_bytes}"
            return read_fault(unit, file.key, "too_large", detail)
        if local:
            open_file(file.uri).close()  # the decoder opens it by its path: find out here if it can
            video = file.uri
        else:
            video = read_file(file.uri, storage_options)
    except OSError as error:
        if not local and not isinstance(error, FileNotFoundError):
            raise
        return read_fault(unit, file.key, "file_unreadable", str(error))
    caption, meta = _read_sidecars(file, storage_options).caption_and_meta()
    name = posixpath.basename(file.uri)
    return Sample(
        key=file.key,
        video=video,
        video_name=name,
        caption=caption,
        meta=meta,
        is_image=is_image(name),
    )


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
