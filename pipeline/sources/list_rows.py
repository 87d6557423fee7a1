"""The rows of a list: each becomes a sample, or the record of why it is not one.

A row's video is the file that it names, or its bytes. Consecutive rows that name the same remote
file read it once: a list of spans that is sorted by video downloads each video once per unit.
"""

import math
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from pipeline.config.source import VideoSource, filled, template_columns
from pipeline.config.tracks import TrackConfig
from pipeline.errors import StoreError, redacted
from pipeline.quarantine import Quarantined, QuarantineError, giving_up
from pipeline.records import ListRows, LooseFile, Sample, Span
from pipeline.sources.list_text import Row
from pipeline.sources.lists import read_rows
from pipeline.sources.loose_files import file_faults, file_sample, max_bytes, require_size
from pipeline.sources.media_types import is_image
from pipeline.sources.row_tracks import frame_arrays, row_tracks
from pipeline.sources.text import (
    PROBLEMS,
    caption_of,
    decoded,
    escaped_name,
    json_value,
    texts_within,
    valid_text,
)
from pipeline.storage.files import (
    canonical_uri,
    is_local,
    local_path,
    portable,
    protocol_of,
    require_protocol,
)

_IMAGE_STARTS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*")
"""First bytes of a JPEG, PNG, BMP or TIFF, for bytes without a name."""


def list_samples(
    unit: str,
    rows: ListRows,
    source: VideoSource,
    images: bool,
    one_by_one: bool,
    tracks: Sequence[TrackConfig] = (),
) -> Iterator[Sample | Quarantined]:
    """Yield the sample of every row; see `SampleReader.read` for `one_by_one`.

    Raises:
        StoreError: the store failed, or the list is missing; retry the unit later.
    """
    reader = _RowReader(rows.uri, source, images, tracks)
    seen: set[str] = set()
    number = rows.start - 1
    try:
        more = reader.track_columns
        for number, row in read_rows(rows, source.lists, source.storage_options, more):
            key = reader.key(number, row)
            try:
                if key in seen:
                    detail = f"row {number} of {rows.uri}: another row of the unit has this key"
                    raise QuarantineError("read", "duplicate_key", detail)
                seen.add(key)
                with giving_up("read", active=one_by_one):
                    sample = reader.sample(key, number, row)
                yield sample
            except QuarantineError as error:
                yield Quarantined.of(error, unit=unit, key=key)
    except FileNotFoundError as error:
        raise StoreError(
            f"{rows.uri}: missing, although it existed when the job was planned"
        ) from error
    except ValueError as error:
        detail = f"{rows.uri}: {error}; the rows {number + 1} to {rows.stop - 1} are lost"
        damage = QuarantineError("read", "list_unreadable", detail)
        yield Quarantined.of(damage, unit=unit, key=posixpath.basename(rows.uri))


class _RowReader:
    """Makes samples of rows; keeps the last remote file."""

    def __init__(
        self, uri: str, source: VideoSource, images: bool, tracks: Sequence[TrackConfig]
    ) -> None:
        self._uri = uri
        self._source = source
        self._config = source.lists
        root = source.lists.root
        options = source.storage_options
        root = posixpath.dirname(local_path(uri)) if root is None else canonical_uri(root, options)
        self._root = root
        self._images = images
        self._tracks = tracks
        columns = [name for track in tracks for name in track.columns]
        self.track_columns = [] if source.lists.frames else columns
        """Columns of the list that hold tracks, which `meta` does not repeat."""
        self._frame_columns = list(dict.fromkeys(columns))
        self._last: tuple[str, Sample | QuarantineError] | None = None

    def key(self, number: int, row: Row | str) -> str:
        """Return the row's key; its number if there is no other."""
        return (self._own_key(row) if isinstance(row, dict) else None) or str(number)

    def sample(self, key: str, number: int, row: Row | str) -> Sample:
        """Return the row's sample.

        Raises:
            QuarantineError: the row is not a sample, or its video cannot be read.
            StoreError: the store failed.
        """
        try:
            if isinstance(row, str):
                raise ValueError(row)
            if self._config.key is not None and not self._own_key(row):
                raise ValueError(
                    f"the column {self._config.key} is empty; a key must be a text or a number"
                )
            span = self._span(row)
            sample = self._video(key, row)
            if sample.is_image and not self._images:
                detail = "an image, and no bucket of `clip` has one frame"
                raise QuarantineError("read", "no_video", f"row {number} of {self._uri}: {detail}")
            if sample.is_image and span is not None:
                raise ValueError("an image cannot have a start and an end")
            begins_s = 0.0 if span is None else span.start_s
            arrays = self._arrays(row) if self._tracks else row
            tracks, problems = row_tracks(arrays, self._tracks, key, begins_s)
            caption, meta = self._caption_and_meta(row, problems)
            return replace(sample, caption=caption, meta=meta, span=span, tracks=tracks)
        except ValueError as error:
            if isinstance(error.__cause__, ImportError):  # the installation lacks a store's library
                raise StoreError(str(error)) from error
            detail = valid_text(f"row {number} of {self._uri}: {error}")
            raise QuarantineError("read", "bad_row", detail) from error

    def _own_key(self, row: Row) -> str | None:
        value = row.get(self._config.key)
        if isinstance(value, bytes):
            return escaped_name(os.fsdecode(value))
        if isinstance(value, (bool, dict, list, tuple)) or (value := json_value(value)) is None:
            return None
        return valid_text(str(value))

    def _arrays(self, row: Row) -> Row | str:
        """Return the arrays of a row's tracks by column, or the reason why there are none."""
        frames = self._config.frames
        if frames is None:
            return row
        try:
            uri = self._uri_of(filled(frames.path, row))
            value, options = row.get(frames.key), self._source.storage_options
            with file_faults(uri):
                return frame_arrays(uri, frames.key, value, self._frame_columns, options)
        except QuarantineError as error:
            return error.detail
        except ValueError as error:
            return str(error)

    def _uri_of(self, name: str) -> str:
        """Return the URI of a name in a row, from `lists.root` if it is relative."""
        require_protocol(name, self._source.protocols)
        if protocol_of(name) != "file" or name.lower().startswith(("/", "file:/")):
            return portable(name)
        root = self._root
        while name.startswith("../"):
            root, name = posixpath.dirname(root), name.removeprefix("../")
        return portable(posixpath.join(root, name))

    def _video(self, key: str, row: Row) -> Sample:
        """Read the video that a row names or holds."""
        value = row.get(self._config.video)
        if template_columns(self._config.video):
            value = filled(self._config.video, row)
        name, data = value, None
        if isinstance(value, dict):
            name, data = value.get("path"), value.get("bytes")
        elif isinstance(value, bytes):
            name, data = None, value
        name = _name(name) if isinstance(name, str) else ""
        if data is not None:
            return self._held(key, data, name)
        if not name:
            raise ValueError(f"{self._config.video} names no video: {str(value)[:80]}")
        uri = self._uri_of(name)
        file = LooseFile(key=key, uri=uri)
        if is_local(uri):
            return file_sample(file, self._source)
        if self._last is None or self._last[0] != uri:
            self._last = None  # freed before the next is read: each may be large
            try:
                self._last = uri, file_sample(file, self._source)
            except QuarantineError as error:
                self._last = uri, error
        found = self._last[1]
        if isinstance(found, QuarantineError):
            raise found
        return replace(found, key=key)

    def _held(self, key: str, data: bytes, name: str) -> Sample:
        require_size(f"{key} of {self._uri}", len(data), max_bytes(self._source))
        image = is_image(name) if name else _begins_as_image(data)
        name = escaped_name(posixpath.basename(name))
        return Sample(key=key, video=data, video_name=name, is_image=image)

    def _span(self, row: Row) -> Span | None:
        """Return the row's span, None for all of the video."""
        start, end = (
            _seconds(name, row.get(name)) if name else None
            for name in (self._config.start_s, self._config.end_s)
        )
        if start is None and end is None:
            return None
        if end is not None and end <= (start or 0.0):
            raise ValueError(
                f"the span ends at {end} s, before or where it begins ({start or 0.0} s)"
            )
        return Span(start_s=start or 0.0, end_s=end)

    def _caption_and_meta(
        self, row: Row, problems: dict[str, str]
    ) -> tuple[str | None, str | None]:
        """Return the caption, and the other columns as JSON: the video's name, not its bytes.

        `problems` are those of the tracks. A caption that is not a text stays in the JSON, as do
        all texts if it is a list.
        """
        meta: dict[Any, Any] = dict(row)
        column = self._config.caption
        for name in (self._config.key, *self.track_columns):
            meta.pop(name, None)
        words, problem = decoded(meta.pop(column, None))
        words = json_value(words)
        if words is not None and not isinstance(words, str):
            meta[column] = words
        video = meta.pop(self._config.video, None)
        name = video.get("path") if isinstance(video, dict) else video
        if isinstance(name, str):
            meta[self._config.video] = redacted(name)
        values = json_value(meta)
        if problem is not None:
            problems[str(column)] = problem
        if problems:
            values[PROBLEMS] = problems
        return texts_within(caption_of(words), values, self._source.max_meta_kb, str(column))


def _name(text: str) -> str:
    """Return a name of which each lone surrogate stands for a byte, as in `os.fsdecode`."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return valid_text(text)
    return text


def _seconds(name: str, value: object) -> float | None:
    """Return a column's value as seconds; None where it is empty."""
    if value is None or value == "":
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} = {str(value)[:80]!r} is not a number of seconds") from error
    if math.isnan(seconds):
        return None  # how dataframes write that there is none
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} = {seconds}: must be finite and not negative")
    return seconds


def _begins_as_image(data: bytes) -> bool:
    boxed = data[8:12] == b"WEBP" if data[:4] == b"RIFF" else data[4:12] == b"ftypavif"
    return boxed or data.startswith(_IMAGE_STARTS)
