"""Which names below a local folder are files; pipes, sockets and devices are not.

fsspec's listings leave out what they cannot list, call links neither file nor folder, and do not
tell a pipe from a file. Here a folder that cannot be listed is an error, or named.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Final

_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(mode: int) -> str | None:
    """Return what a mode of `os.stat` says of something that is not a file; None for a file."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)


def tree_files(folder: str, skipped: dict[str, str], depth: int = 0) -> Iterator[str]:
    """Yield the paths of the files below a folder, or of the file itself; in no order.

    A link to a file is a file, as is one whose target is away: reading it tells. Links to folders
    are not followed.

    Args:
        folder: absolute path.
        skipped: gets what else is there: its path, and what it is.
        depth: number of levels; 0 for all.

    Raises:
        OSError: a folder cannot be listed, and not for lack of permission on a folder inside.
    """
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_file(follow_symlinks=False):
            yield entry.path
        elif not entry.is_dir(follow_symlinks=False):
            try:
                kind = kind_of(entry.stat().st_mode)
            except OSError:
                kind = None
            if kind is None:
                yield entry.path
            else:
                skipped[entry.path] = f"a link to {kind}" if entry.is_symlink() else kind
        elif depth != 1:
            try:
                yield from tree_files(entry.path, skipped, depth and depth - 1)
            except PermissionError:
                skipped[entry.path] = "a folder that may not be listed"


def glob_files(pattern: str, expression: str, skipped: dict[str, str]) -> Iterator[str]:
    """Yield the paths of the files that match a glob, with `**` for any depth.

    Args:
        pattern: absolute path with wildcards.
        expression: the pattern as a regular expression.
        skipped: as in `tree_files`.

    Raises:
        OSError: as `tree_files`.
    """
    wildcard = next(n for n, c in enumerate(pattern) if c in "*?[")
    root = pattern[: pattern.rfind("/", 0, wildcard) + 1]
    depth = 0 if "**" in pattern else pattern[len(root) :].count("/") + 1
    matches = re.compile(expression).fullmatch
    passed: dict[str, str] = {}
    try:
        os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from filter(matches, tree_files(root, passed, depth))
    skipped.update((p, kind) for p, kind in passed.items() if "folder" in kind or matches(p))
