"""Writing on a local disk so that it survives: whole files, one winner, no half states.

A rename or a link is atomic to readers at once, and outlives a power cut only after the file and
then its folder were synced.
"""

import os
import uuid
from pathlib import Path
from typing import IO, Final

from pipeline.errors import AlreadyExists

TEMPORARY_PREFIX: Final = ".tmp-"
"""Files under construction; no listing shows them."""


def temporary_in(folder: Path) -> Path:
    """Return a fresh name for a file under construction, on the file system of its goal.

    Open it with mode "xb", not through `tempfile`: that one's mode 0600 would survive the rename
    and lock other users out.
    """
    return folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def replace_durably(temporary: Path, file: IO[bytes], final: Path) -> None:
    """Close `file`, written at `temporary`, and put it in place of whatever stands at `final`."""
    _sync(file)
    file.close()
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(final)
    _sync_folder(final.parent)


def link_if_absent(final: Path, data: bytes) -> None:
    """Write a file only if nothing stands at its name.

    Written beside it and then linked: the kernel lets one link win, and whole.

    Raises:
        AlreadyExists: something stands there.
        OSError: the disk refused, for instance because it knows no hard links.
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
            # A network file system that resends a lost request is refused by its own first try;
            # two links to our temporary file prove that it was applied.
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
