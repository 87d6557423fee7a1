"""The output: files and objects under one root, a local folder or an object store.

Two writes carry the exactly-once rules. `write` is atomic: a reader sees the old bytes or all of
the new ones. `put_if_absent` has three outcomes that callers treat differently: done,
`AlreadyExists`, and `StateUnknown` (no answer came, so the bytes may be stored). `put_or_read`
answers one question instead: which bytes does the object hold now? Local disks do not use fsspec's
`mode="create"`: it asks and then writes, so two racing writers can both win.
"""

import contextlib
import os
import posixpath
import random
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from io import BufferedRandom
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

from pipeline.errors import AlreadyExists, ConfigError, StateUnknown, StoreError
from pipeline.storage.files import (
    file_size,
    hidden_temporary,
    on_local_disk,
    open_file,
    open_filesystem,
    read_file,
    store_errors,
)
from pipeline.storage.local_disk import (
    TEMPORARY_PREFIX,
    VANISHED,
    link_if_absent,
    replace_durably,
    temporary_in,
)
from pipeline.storage.range_file import RangeFile

_CONFLICT_TRIES: Final = 6


_SETTLE_TRIES: Final = 5


_MODIFIED: Final = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Names of the time of the last change in fsspec's file systems: local, S3, Azure, GCS, memory."""


_CONFLICT_CODES: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as a listing shows it."""

    path: str
    """Path relative to the store's root."""
    bytes: int
    """Size of the file."""
    modified: float
    """Time of the last change in seconds since the epoch, by the store's clock."""


@dataclass(frozen=True, slots=True)
class Store:
    """The folder or object prefix of one dataset.

    Args:
        uri: local path, or any URI that fsspec opens (`s3://bucket/corpus`).
        storage_options: passed to the fsspec file system (credentials, endpoint).

    Paths are relative, with forward slashes. Methods raise `FileNotFoundError` if no file exists at
    the path, and `StoreError` if the store refuses or fails.
    """

    uri: str
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def locate(self, path: str) -> str:
        """Return the full URI of a path, for error texts and other tools."""
        return posixpath.join(self.uri, path) if path else self.uri

    def read(self, path: str) -> bytes:
        """Return the whole content of a file."""
        self._require_regular(path)
        return read_file(self.locate(path), self.storage_options)

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading; it is seekable."""
        self._require_regular(path)
        return open_file(self.locate(path), self.storage_options)

    def open_ranges(self, path: str, num_bytes: int | None = None) -> "pa.OSFile | RangeFile":
        """Open a file for Arrow to read ranges: only the bytes asked for, none ahead.

        Args:
            path: path of the file.
            num_bytes: length of the file, so that no request asks for it; None asks.
        """
        self._require_regular(path)
        fs, full = self._fs(path)
        where = self.locate(path)
        if on_local_disk(fs):
            with store_errors(where):
                return pa.OSFile(full)  # it reads without Python's lock
        return RangeFile(fs, full, self.size(path) if num_bytes is None else num_bytes, where)

    def exists(self, path: str) -> bool:
        """Return whether a file exists at the path."""
        fs, full = self._fs(path)
        with store_errors(self.locate(path)):
            return bool(fs.isfile(full))

    def size(self, path: str) -> int:
        """Return a file's length in bytes."""
        return file_size(self.locate(path), self.storage_options)

    def list(self, folder: str = "") -> list[str]:
        """Return the paths of all files under a folder, at any depth, sorted."""
        return sorted(f.path for f in self.files(folder) if not hidden_temporary(f.path))

    def files(self, path: str = "") -> Iterator[StoredFile]:
        """Yield all files under a folder, or the one file at the path; temporary files included."""
        fs, full = self._fs(path)
        root = self._fs("")[1].rstrip("/") + "/"
        with store_errors(self.locate(path)):
            found = fs.find(full, detail=True)
        for name, info in found.items():
            if info["type"] == "directory":  # s3fs, if the folder appears during the listing
                continue
            when = next(info[key] for key in _MODIFIED if key in info)
            seconds = when.timestamp() if isinstance(when, datetime) else float(when)
            yield StoredFile(str(name).removeprefix(root), int(info["size"]), seconds)

    def delete(self, path: str) -> None:
        """Delete a file; a missing file is not an error."""
        fs, full = self._fs(path)
        with store_errors(self.locate(path)), contextlib.suppress(FileNotFoundError):
            fs.rm_file(full)

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically; an existing file is replaced."""
        fs, full = self._fs(path)
        if on_local_disk(fs):
            with self.stage(posixpath.dirname(path)) as staged:
                staged.file.write(data)
                staged.publish(path)
            return
        with store_errors(self.locate(path)):
            fs.pipe_file(full, data)

    def stage(self, folder: str) -> "StagedFile":
        """Start a file whose name is known only at its end; see `StagedFile`."""
        fs, full = self._fs(folder)
        with store_errors(self.locate(folder)):
            # A rename is atomic only within a file system.
            return StagedFile(self, Path(full) if on_local_disk(fs) else None)

    def put_if_absent(self, path: str, data: bytes) -> None:
        """Write a file only if none exists at the path.

        Raises:
            AlreadyExists: a file exists. It can be ours: a client that resends a request whose
                answer was lost gets this error because its first try succeeded.
            StateUnknown: no answer came; `data` may or may not be stored.
            StoreError: the store refused; nothing was written.
        """
        fs, full = self._fs(path)
        where = self.locate(path)
        if on_local_disk(fs):
            with store_errors(where):
                link_if_absent(Path(full), data)
        else:
            _create_object(fs, full, data, where)

    def put_or_read(self, path: str, data: bytes) -> bytes:
        """Write `data` unless a file exists at the path; return what is stored afterwards.

        The caller compares: equal bytes (or an equal token in them) are its own, even if the
        store's answer was lost.

        Raises:
            StateUnknown: the store answered neither the write nor the reading back.
            StoreError: the store refused.
        """
        for attempt in range(_SETTLE_TRIES):
            try:
                self.put_if_absent(path, data)
            except (AlreadyExists, StateUnknown):
                with contextlib.suppress(FileNotFoundError, StoreError):
                    return self.read(path)
                _pause(attempt)
            else:
                return data
        raise StateUnknown(
            f"{self.locate(path)}: no answer to {_SETTLE_TRIES} attempts to write it; check the"
            " store, and run the command again"
        )

    def supports_put_if_absent(self) -> bool:
        """Test with a temporary file whether the store refuses a second put-if-absent.

        A failed test is repeated: `vacuum` may have deleted the file of a process that stood still.
        """
        return self._refuses_second_put() or self._refuses_second_put()

    def _refuses_second_put(self) -> bool:
        path = f".probe-{uuid.uuid4().hex}"
        try:
            self.put_or_read(path, b"first")
            return self.put_or_read(path, b"second") == b"first"
        finally:
            self.delete(path)

    def require_put_if_absent(self) -> None:
        """Refuse a store on which two drivers could overwrite each other's commits.

        Raises:
            ConfigError: the store overwrites instead of refusing.
        """
        if not self.supports_put_if_absent():
            raise ConfigError(
                f"output = {self.uri}: the store ignores If-None-Match (put only if absent), so two"
                " drivers could overwrite each other's commits; use a store with conditional"
                " writes or a local folder, or set output.alone=true if no other job writes there"
            )

    def filesystem(self) -> Any:
        """Return fsspec's file system of the root, for a library that needs one."""
        return self._fs("")[0]

    def _require_regular(self, path: str) -> None:
        """Refuse a named pipe or a device, which could give no byte or bytes without end."""
        fs, full = self._fs(path)
        if on_local_disk(fs) and os.path.exists(full) and not os.path.isfile(full):
            raise StoreError(f"{self.locate(path)}: not a regular file; delete it")

    def _fs(self, path: str) -> tuple[Any, str]:
        return open_filesystem(self.locate(path), self.storage_options)


class StagedFile:
    """A file under construction on local disk: written, then published whole or discarded.

    As a context manager it discards a file that was not published.
    """

    def __init__(self, store: Store, folder: Path | None) -> None:
        self._store = store
        if folder is None:
            descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX)
            self._path = Path(name)
            self.file: BufferedRandom = os.fdopen(descriptor, "w+b")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._path = temporary_in(folder)
            self.file = self._path.open("x+b")

    def publish(self, path: str) -> None:
        """Close the file and move it to the path atomically; an existing file is replaced.

        Raises:
            StoreError: the store refused, or the file was deleted from under the writer.
        """
        fs, full = self._store._fs(path)
        where = self._store.locate(path)
        try:
            with store_errors(where):
                if on_local_disk(fs):
                    replace_durably(self._path, self.file, Path(full))
                else:
                    self.file.close()
                    fs.put_file(str(self._path), full)
                    _confirm(fs, full, self._path.stat().st_size, where)
        except FileNotFoundError as error:
            raise StoreError(f"{where}: {VANISHED}") from error
        self.discard()

    def discard(self) -> None:
        """Delete the file if it was not published."""
        self.file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> "StagedFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()


def _pause(attempt: int) -> None:
    time.sleep(min(2.0, 0.05 * 2**attempt) * (0.5 + random.random()))


def _create_object(fs: Any, full: str, data: bytes, where: str) -> None:
    for attempt in range(_CONFLICT_TRIES):
        try:
            fs.pipe_file(full, data, mode="create")
        except Exception as error:
            code, status = _answer(error)
            if isinstance(error, FileExistsError) or code == "PreconditionFailed":
                raise AlreadyExists(f"{where}: exists already") from error
            text = f"{where}: {type(error).__name__}: {error}"
            if code in _CONFLICT_CODES:
                # Another conditional write is in progress; S3 asks for a retry.
                if attempt + 1 == _CONFLICT_TRIES:
                    raise StoreError(text) from error
                _pause(attempt)
            elif 400 <= status < 500 or status == 501:
                raise StoreError(text) from error
            else:
                raise StateUnknown(text) from error
        else:
            try:
                _confirm(fs, full, len(data), where)
            except Exception as error:
                raise StateUnknown(str(error)) from error
            return


def _confirm(fs: Any, full: str, num_bytes: int, where: str) -> None:
    """Check that an object is stored whole: some stores and proxies confirm before it is.

    Raises:
        StoreError: the object is missing or cut short.
    """
    try:
        found = int(fs.size(full))
    except FileNotFoundError:
        raise StoreError(
            f"{where}: the store confirmed the write, but the file does not exist; check the store,"
            " and run the command again"
        ) from None
    if found != num_bytes:
        raise StoreError(
            f"{where}: the store confirmed {num_bytes} bytes, but the file has {found}; check the"
            " store, and run the command again"
        )


def _answer(error: BaseException | None) -> tuple[str, int]:
    """Return the store's error code and HTTP status from the error or its causes."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        error = error.__cause__
    return "", 0
