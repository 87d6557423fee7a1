"""Files by full URI, and their file systems: the only module that imports fsspec.

Sources are read through these functions. `pipeline.storage.store.Store`, the output, builds on
`open_filesystem` and `store_errors`.
"""

import contextlib
import io
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import unquote_to_bytes

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations
from fsspec.utils import glob_translate

from pipeline.errors import ConfigError, StoreError, redacted
from pipeline.storage.local_disk import TEMPORARY_PREFIX
from pipeline.storage.local_tree import glob_files, kind_of, tree_files

_READ_AHEAD_BYTES: Final = 8 << 20


_GAP_BYTES: Final = 8 << 10
"""Largest gap between two ranges that one request reads: it costs less than a request."""


_REQUEST_BYTES: Final = 32 << 20
"""Largest request that several ranges share; requests run side by side."""


_NOT_UTF8: Final = re.compile("[\ud800-\udfff]")
"""What Python puts into a local name for bytes that are not UTF-8."""


_PROTOCOL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


_CHAIN: Final = re.compile(f"::{_PROTOCOL.pattern}", re.IGNORECASE)


_FILE_URI: Final = re.compile(r"file:(?://(?:localhost)?)?(/.*)", re.DOTALL | re.IGNORECASE)

_STALLED_S: Final = 60.0
"""Seconds without a byte after which an HTTP connection counts as broken."""

_HTTP_CLIENTS: Final = {
    **dict.fromkeys(("http", "https"), "client_kwargs"),
    **dict.fromkeys(("gs", "gcs"), "session_kwargs"),
}
"""Option with the settings of aiohttp's client, by protocol."""

_EXTRAS: Final = {**dict.fromkeys(("http", "https", "s3", "s3a"), "s3"), "hf": "hub"}
"""Extra of this package that installs the library of a protocol."""

_GONE: Final = frozenset({404, 410, "404", "NoSuchKey", "NoSuchVersion"})
"""Answers of HTTP (numbers) and S3 (texts) that mean that a file does not exist."""


_BUSY_OR_REFUSED: Final = frozenset({401, 403, 407, 408, 421, 425, 429})
"""Answers 4xx of HTTP that another try, or other credentials, can change."""


class FileRefused(StoreError):
    """The store does not give this file; another try would not help."""


def protocol_of(uri: str) -> str:
    """Return the protocol of a URI in lower case; `file` for a path.

    `::` is part of a name, unless a URI follows it or the name of a protocol precedes it: then
    fsspec would open one file through another.

    Raises:
        ConfigError: the URI is such a chain of file systems.
    """
    if _CHAIN.search(uri) or ("::" in uri and uri.partition("::")[0] in known_implementations):
        raise ConfigError(
            f"{redacted(uri)}: a chain of file systems (`::`), which is not supported; name the"
            " file itself, or write ./ before a relative path"
        )
    found = _PROTOCOL.match(uri)
    return found[1].lower() if found else "file"


def require_protocol(uri: str, allowed: Collection[str]) -> None:
    """Raise ConfigError for a URI of a protocol that is not allowed, and for a chain."""
    if (protocol := protocol_of(uri)) not in allowed:
        raise ConfigError(
            f"{redacted(uri)}: the protocol {protocol} is not allowed; source.protocols allows"
            f" {', '.join(allowed)}"
        )


def canonical_uri(uri: str, storage_options: Mapping[str, Any] | None = None) -> str:
    """Return the canonical spelling of a URI: an absolute path for local files.

    Bytes of a path that are not UTF-8 are lone surrogates, as in `os.fsdecode`; see `portable`.
    """
    fs, full = open_filesystem(uri, storage_options)
    return full if on_local_disk(fs) else str(fs.unstrip_protocol(full))


def portable(name: str) -> str:
    """Return a canonical URI as valid Unicode: a path that is not UTF-8 as a `file:` URI.

    Raises:
        ValueError: the name has a lone surrogate that stands for no byte.
    """
    return Path(name).as_uri() if _NOT_UTF8.search(name) else name


def is_local(uri: str) -> bool:
    """Return whether a URI names the local disk."""
    return isinstance(open_filesystem(uri, None)[0], LocalFileSystem) if "://" in uri else True


def find_files(
    uri: str,
    storage_options: Mapping[str, Any] | None = None,
    skipped: dict[str, str] | None = None,
) -> list[str]:
    """Return the canonical URIs of the files that a file, folder or glob names, sorted.

    A folder is searched at any depth. A name that exists literally is not a glob, even if it
    contains special characters. The list is empty if no file matches.

    Args:
        uri: a file, folder or glob.
        storage_options: for fsspec.
        skipped: gets what a local listing leaves out: its path, and what it is.

    Raises:
        ConfigError: the URI itself names a pipe, a socket or a device.
        StoreError: the store failed.
    """
    fs, full = open_filesystem(uri, storage_options)
    skipped = {} if skipped is None else skipped
    is_glob = any(c in full for c in "*?[")
    try:
        with store_errors(uri):
            kind = fs.info(full)["type"]
    except FileNotFoundError:
        kind = "missing"
    if kind == "other":
        raise ConfigError(
            f"{uri}: is a pipe, a socket or a device; a source must be a file or a folder"
        )
    with store_errors(uri):
        if kind == "file":
            names = [full]
        elif on_local_disk(fs):
            glob = glob_files(full, glob_translate(full), skipped) if is_glob else []
            try:
                names = list(glob if kind == "missing" else tree_files(full, skipped))
            except FileNotFoundError as error:
                raise StoreError(
                    f"{uri}: a folder disappeared while it was listed; run the command again"
                ) from error
        elif kind == "missing":
            matches = fs.glob(full, detail=True) if is_glob else {}
            names = [name for name, info in matches.items() if info["type"] == "file"]
        else:
            names = fs.find(full)
    return _uris(fs, names)


def list_folder(uri: str, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Return the canonical URIs of the files directly in a folder, sorted."""
    fs, full = open_filesystem(uri, storage_options)
    try:
        with store_errors(uri):
            if on_local_disk(fs):
                return _uris(fs, list(tree_files(full, {}, depth=1)))
            entries = fs.ls(full, detail=True)
    except FileNotFoundError:
        return []
    return _uris(fs, [entry["name"] for entry in entries if entry["type"] == "file"])


def file_size(uri: str, storage_options: Mapping[str, Any] | None = None) -> int:
    """Return the size of a file in bytes."""
    fs, full = open_filesystem(uri, storage_options)
    with store_errors(uri):
        if on_local_disk(fs):
            return _regular_size(full)
        size = fs.size(full)
        if size is None:
            raise FileRefused(f"{uri}: the server does not say how long the file is")
        return int(size)


def read_file(
    uri: str, storage_options: Mapping[str, Any] | None = None, num_bytes: int = 0
) -> bytes:
    """Return the whole content of a file, whose length may be known: large ones are read faster."""
    fs, full = open_filesystem(uri, storage_options)
    if on_local_disk(fs):
        with open_file(uri, storage_options) as file:
            return file.read()
    with store_errors(uri):
        return bytes(fs.cat_file(full, **({} if num_bytes > _REQUEST_BYTES else _in_one(fs))))


def _in_one(fs: Any) -> dict[str, int]:
    """Return options that keep s3fs from asking for the size first, to read ranges of the file."""
    read = getattr(fs, "_cat_file", None)
    return (
        {"max_concurrency": 1} if read and "max_concurrency" in signature(read).parameters else {}
    )


def read_ranges(fs: Any, path: str, ranges: Sequence[range]) -> list[tuple[int, bytes]]:
    """Return ranges of a file's bytes, read together: the start and the content of each request.

    Args:
        fs: fsspec file system.
        path: path of the file, as the file system spells it.
        ranges: ranges of bytes, none of them empty, within the file.
    """
    ranges = sorted(ranges, key=lambda one: one.start)
    paths, starts, stops = fsspec.utils.merge_offset_ranges(
        [path] * len(ranges),
        [one.start for one in ranges],
        [one.stop for one in ranges],
        max_gap=_GAP_BYTES,
        max_block=_REQUEST_BYTES,
    )
    contents = fs.cat_ranges(paths, starts, stops, on_error="raise") if paths else []
    return list(zip(starts, contents, strict=True))


def open_file(uri: str, storage_options: Mapping[str, Any] | None = None) -> BinaryIO:
    """Open a file for reading; its `read` raises `StoreError` when the store fails midway.

    A local file that says that it is empty is never read: files of /proc say so, and can be
    endless.
    """
    fs, full = open_filesystem(uri, storage_options)
    with store_errors(uri):
        if not on_local_disk(fs):
            file = fs.open(full, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead")
        else:
            file = Path(full).open("rb") if _regular_size(full) else io.BytesIO()  # noqa: SIM115
    return cast("BinaryIO", StoreReader(file, uri))


def _regular_size(path: str) -> int:
    """Return the size of a local file; refuse what is none before anyone waits to read from it."""
    status = os.stat(path)
    if (kind := kind_of(status.st_mode)) is not None:
        raise FileRefused(f"{portable(path)}: is {kind}, not a file")
    return status.st_size


class StoreReader:
    """A file that raises `StoreError` if the store fails, so that no failure looks like damage."""

    def __init__(self, file: Any, uri: str) -> None:
        self._file = file
        self._uri = uri

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; a negative size returns all that are left."""
        with store_errors(self._uri):
            return bytes(self._file.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "StoreReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def open_filesystem(uri: str, storage_options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """Return fsspec's file system and its spelling of the path.

    Callers do not keep it: fsspec caches instances by thread and process, which survives forks.
    Listings are never cached, because other drivers write under the same root.

    Raises:
        ConfigError: fsspec does not know the protocol, its library is not installed, or the URI
            is a chain.
    """
    protocol = protocol_of(uri)
    try:
        uri = local_path(uri)
        options = {**_patience(protocol, storage_options or {}), "use_listings_cache": False}
        # fsspec takes `::` for a chain and any `://` for a protocol: it sees neither of a name.
        known = "/" if protocol == "file" else uri.partition("::")[0]
        fs, _ = fsspec.core.url_to_fs(known, **options)
        path = fs._strip_protocol(uri)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        fix = f"; install the extra: vidtok-pipeline[{extra}]" if extra else ""
        raise ConfigError(f"{uri}: {error}{fix}") from error
    except ValueError as error:
        raise ConfigError(f"{uri}: {error}") from error
    return fs, os.path.abspath(path) if on_local_disk(fs) else str(path)


def _patience(protocol: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with a client of HTTP that waits for bytes, and for as long as they come.

    By default a download ends after five minutes, so a large video on a slow link never arrives.
    """
    name = _HTTP_CLIENTS.get(protocol)
    if name is None:
        return dict(storage_options)
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=_STALLED_S, sock_read=_STALLED_S)
    return {**storage_options, name: {"timeout": timeout, **storage_options.get(name, {})}}


def local_path(uri: str) -> str:
    """Return a `file:` URI as a path, percent-encoded or not; return any other URI as it is.

    A file whose name is spelled so literally counts first.
    """
    found = _FILE_URI.fullmatch(uri)
    if found is None:
        return uri
    path = found[1]
    return path if "%" not in path or os.path.exists(path) else os.fsdecode(unquote_to_bytes(path))


def on_local_disk(fs: Any) -> bool:
    """Return whether a file system is the local disk."""
    return isinstance(fs, LocalFileSystem)


@contextlib.contextmanager
def store_errors(where: str) -> Iterator[None]:
    """Raise `StoreError` for any error of a file system, except for a missing file.

    Raises:
        FileNotFoundError: the store does not have the file.
        FileRefused: the store's answer concerns this file, and will be the same again.
        StoreError: any other error. Another try can help.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        # Errors of botocore and aiohttp are not OSErrors, so no narrower clause catches them.
        cause, answer = _answer(error)
        if answer is None and isinstance(error, FileNotFoundError):
            raise
        if answer in _GONE:
            raise FileNotFoundError(f"{where}: no such file ({answer})") from error
        # A name that cannot be one, or an object that must be restored from cold storage first.
        refused = isinstance(cause, ValueError) or answer == "InvalidObjectState"
        if isinstance(answer, int):
            refused = 300 <= answer < 500 and answer not in _BUSY_OR_REFUSED
        kind = FileRefused if refused else StoreError
        raise kind(redacted(f"{where}: {type(cause).__name__}: {cause}")) from error


def _answer(error: BaseException) -> tuple[BaseException, int | str | None]:
    """Return the error that tells what a server answered, and the code of the answer.

    Over HTTP fsspec calls a file missing whatever the server answers; the answer is the cause. The
    code is empty if a missing file has another cause, and None if nothing tells of an answer.
    """
    found: BaseException | None = error
    while found is not None:
        response = getattr(found, "response", None)
        if isinstance(response, Mapping):
            return error, str(response.get("Error", {}).get("Code"))
        status = getattr(found, "status", None)
        if isinstance(status, int):
            return found, status
        if isinstance(error, FileNotFoundError) and not isinstance(found, FileNotFoundError):
            return found, ""
        found = found.__cause__
    return error, None


def hidden_temporary(path: str) -> bool:
    """Return whether a path is that of a file under construction on a local disk."""
    return posixpath.basename(path).startswith(TEMPORARY_PREFIX)


def _uris(fs: Any, names: list[str]) -> list[str]:
    names = [name for name in names if not name.endswith("/") and not hidden_temporary(name)]
    if not on_local_disk(fs):
        names = [str(fs.unstrip_protocol(name)) for name in names]
    return sorted(names)
