"""Read the rows of a list: each is a sample, or the record of why it is none.

A row's video is the file that it names, or its bytes. Rows that follow one another and name one
remote file read it once: a list of spans that is sorted by video downloads each video once a unit.
"""

import json
import math
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pipeline.config.source import ListConfig
from pipeline.errors import StoreError, redacted
from pipeline.quarantine import Quarantined
from pipeline.records import ListRows, LooseFile, Sample, Span
from pipeline.sources.faults import read_fault
from pipeline.sources.lists import Row, read_rows
from pipeline.sources.loose_files import file_sample
from pipeline.sources.media_types import is_image
from pipeline.sources.sidecars import PROBLEMS, json_value
from pipeline.storage.files import is_local

_MAX_META_BYTES: Final = 1 << 20


_IMAGE_STARTS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*")
"""JPEG, PNG, BMP, TIFF: what bytes without a name begin with."""


class BadRow(ValueError):
    """A row is no sample; the text says why."""


def list_samples(
    unit: str,
    rows: ListRows,
    config: ListConfig,
    storage_options: Mapping[str, Any] | None,
    max_video_bytes: int,
    images: bool,
) -> Iterator[Sample | Quarantined]:
    """Yield the sample of every row.

    Raises:
        StoreError: the store failed, or the list is gone; the unit should be tried again.
    """
    read = _Reader(unit, rows.uri, config, storage_options, max_video_bytes, images)
    seen: set[str] = set()
    number = rows.start - 1
    try:
        for number, row in read_rows(rows, config, storage_options):
            sample = read(number, row)
            if sample.key in seen:
                detail = f"row {number} of {rows.uri}: another row of the unit has this key"
                yield read_fault(unit, sample.key, "duplicate_key", detail)
            else:
                seen.add(sample.key)
                yield sample
    except FileNotFoundError as error:
        raise StoreError(f"{rows.uri}: gone since it was planned") from error
    except ValueError as error:
        detail = f"{rows.uri}: {error}; the rows {number + 1} to {rows.stop - 1} are lost"
        yield read_fault(unit, posixpath.basename(rows.uri), "list_unreadable", detail)


class _Reader:
    """Makes samples of rows; keeps the last remote file."""

    def __init__(
        self,
        unit: str,
        uri: str,
        config: ListConfig,
        storage_options: Mapping[str, Any] | None,
        max_video_bytes: int,
        images: bool,
    ) -> None:
        self._unit = unit
        self._uri = uri
        self._root = config.root if config.root is not None else posixpath.dirname(uri)
        self._config = config
        self._options = storage_options
        self._max_video_bytes = max_video_bytes
        self._images = images
        self._last: tuple[str, Sample | Quarantined] | None = None

    def __call__(self, number: int, row: Row | str) -> Sample | Quarantined:
        key = str(number)
        try:
            if isinstance(row, str):
                raise BadRow(row)
            if self._config.key is not None:
                value = row.get(self._config.key)
                if value is None or value == "":
                    raise BadRow(f"{self._config.key} is empty; it is to be the key")
                key = str(value)
            caption = row.get(self._config.caption) if self._config.caption else None
            caption = str(caption).strip() or None if caption is not None else None
            meta, span = self._meta(row), self._span(row)
            sample = self._video(key, row.get(self._config.video))
            if isinstance(sample, Quarantined):
                return sample
            if sample.is_image and not self._images:
                return self._fault(
                    key, "no_video", number, "an image, and no bucket of `clip` has one frame"
                )
            if sample.is_image and span is not None:
                raise BadRow("an image has no start and end")
            return replace(sample, caption=caption, meta=meta, span=span)
        except BadRow as error:
            return self._fault(key, "bad_row", number, str(error))

    def _fault(self, key: str, reason: str, number: int, detail: str) -> Quarantined:
        return read_fault(self._unit, key, reason, f"row {number} of {self._uri}: {detail}")

    def _video(self, key: str, value: object) -> Sample | Quarantined:
        """Read what the video's column holds."""
        name, data = value, None
        if isinstance(value, dict):
            name, data = value.get("path"), value.get("bytes")
        elif isinstance(value, bytes):
            name, data = None, value
        if data is not None:
            return self._held(key, data, name if isinstance(name, str) else "")
        if not isinstance(name, str) or not name:
            raise BadRow(f"{self._config.video} names no video: {str(value)[:80]}")
        uri = name if "://" in name or name.startswith("/") else posixpath.join(self._root, name)
        if self._last is None or self._last[0] != uri:
            self._last = None  # before the next is read: one of them may be large
            file = LooseFile(key=key, uri=uri)
            sample = file_sample(self._unit, file, self._options, self._max_video_bytes)
            if is_local(uri):
                return sample
            self._last = uri, sample
        return replace(self._last[1], key=key)

    def _held(self, key: str, data: bytes, name: str) -> Sample | Quarantined:
        if len(data) > self._max_video_bytes:
            detail = f"{key} of {self._uri} has {len(data)} bytes, the limit is"
            return read_fault(self._unit, key, "too_large", f"{detail} {self._max_video_bytes}")
        image = is_image(name) if name else _begins_as_image(data)
        return Sample(key=key, video=data, video_name=posixpath.basename(name), is_image=image)

    def _span(self, row: Row) -> Span | None:
        """Return the row's span, None for all of the video."""
        start, end = (
            _seconds(name, row.get(name)) if name else None
            for name in (self._config.start_s, self._config.end_s)
        )
        if start is None and end is None:
            return None
        if end is not None and end <= (start or 0.0):
            raise BadRow(f"the span ends at {end} s, and begins at {start or 0.0} s")
        return Span(start_s=start or 0.0, end_s=end)

    def _meta(self, row: Row) -> str | None:
        """Return the other columns as JSON, with the video's name but not its bytes."""
        meta = dict(row)
        for name in (self._config.key, self._config.caption):
            if name is not None:
                meta.pop(name, None)
        video = meta.pop(self._config.video, None)
        name = video.get("path") if isinstance(video, dict) else video
        if isinstance(name, str):
            meta[self._config.video] = redacted(name)
        try:
            text = json.dumps(json_value(meta), ensure_ascii=False) if meta else None
        except ValueError as error:
            raise BadRow(str(error)) from error
        if text is not None and len(text) > _MAX_META_BYTES:
            problem = f"{len(text)} characters of JSON; choose columns in source.lists.meta"
            text = json.dumps({PROBLEMS: {"row": problem}})
        return text.encode("utf-8", "replace").decode("utf-8") if text else None


def _seconds(name: str, value: object) -> float | None:
    """Return a column's value as seconds; None where it is empty."""
    if value is None or value == "":
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadRow(f"{name} = {str(value)[:80]!r} is no number of seconds") from error
    if math.isnan(seconds):
        return None  # how dataframes write that there is none
    if not 0 <= seconds < math.inf:
        raise BadRow(f"{name} = {seconds}: a span begins at 0 or later, and ends")
    return seconds


def _begins_as_image(data: bytes) -> bool:
    boxed = data[8:12] == b"WEBP" if data[:4] == b"RIFF" else data[4:12] == b"ftypavif"
    return boxed or data.startswith(_IMAGE_STARTS)
