"""Durable writes on a local disk: whole files, one winner, nothing half written.

A rename or a link is atomic for readers. It survives a power failure only after the file and then
its folder were synced.
"""

import errno
import os
import uuid
from pathlib import Path
from typing import IO, Final

from pipeline.errors import AlreadyExists, StateUnknown

TEMPORARY_PREFIX: Final = ".tmp-"
"""Prefix of files under construction; no listing shows them."""


VANISHED: Final = (
    "its temporary file disappeared while it was written; vacuum deletes those that are older than"
    " a day: try again"
)
"""Text of the error of a writer that stood still for long."""


_OF_ONE_FILE: Final = (PermissionError, IsADirectoryError, NotADirectoryError)


_ERRNO_OF_ONE_FILE: Final = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ESPIPE)


def blames_file(path: str, error: OSError) -> bool:
    """Return whether a file is to blame that cannot be read, so that another try would not help.

    A missing file is to blame if its folder holds others and not its name. Otherwise a mount is
    perhaps away. Errors of the device or the network do not blame the file.
    """
    if not isinstance(error, FileNotFoundError):
        return isinstance(error, _OF_ONE_FILE) or error.errno in _ERRNO_OF_ONE_FILE
    if os.path.lexists(path):
        return False
    try:
        with os.scandir(os.path.dirname(path)) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def temporary_in(folder: Path) -> Path:
    """Return a new path for a file under construction, in the folder of its final name.

    Open it with mode "xb", not through `tempfile`, whose mode 0600 would survive the rename and
    keep other users from reading.
    """
    return folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def replace_durably(temporary: Path, file: IO[bytes], final: Path) -> None:
    """Close `file`, written at `temporary`, and move it to `final`, which may exist."""
    _sync(file)
    file.close()
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(final)
    _sync_folder(final.parent)


def link_if_absent(final: Path, data: bytes) -> None:
    """Write a file only if none exists at its name.

    The file is written beside it and then linked: of several links the kernel lets one win.

    Raises:
        AlreadyExists: a file exists there.
        StateUnknown: the file beside it was deleted before the answer came.
        OSError: the disk refused, for example because it has no hard links.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_in(final.parent)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            _sync(file)
        try:
            os.link(temporary, final)
        except OSError as error:
            # A network file system that resends a lost request is refused because of its first
            # try; two links to our temporary file prove that the first try was applied.
            if not temporary.exists():
                raise StateUnknown(f"{final}: {VANISHED}") from error
            if temporary.stat().st_nlink != 2:
                if isinstance(error, FileExistsError):
                    raise AlreadyExists(f"{final}: exists already") from error
                raise
        _sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
