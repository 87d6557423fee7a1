"""Orphaned files: files of a dataset that no record names, left by crashes, races and retries."""

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.dataset import Manifest
from pipeline.dataset.part_writer import MERGED_NAME
from pipeline.storage.local_disk import TEMPORARY_PREFIX
from pipeline.storage.store import StoredFile

_PART: Final = re.compile(r"data/(?:\d+|all)x\d+x\d+/(.+)-\d+-[0-9a-f]{32}\.parquet")


_QUARANTINE: Final = re.compile(r"quarantine/(.+)-[0-9a-f]{32}\.parquet")


_TEMPORARY: Final = (TEMPORARY_PREFIX, ".probe-")


@dataclass(frozen=True, slots=True)
class Unnamed:
    """One orphaned file."""

    file: StoredFile
    """The file, as a listing shows it."""
    kind: Literal["part", "merged", "temporary", "foreign"]
    """Kind of file. `part`: by its name a unit's part or quarantine table. `merged`: a merged part.
    `temporary`: under construction, or abandoned so. `foreign`: not a file of this program, in a
    folder of parts."""
    unit: str = ""
    """Id of the unit that a part belongs to; empty for other files."""


def unnamed_files(files: Iterable[StoredFile], manifest: Manifest) -> Iterator[Unnamed]:
    """Yield temporary files, and files in the folders of parts that the manifest does not name."""
    named = {part.path for part in (*manifest.parts(), *manifest.quarantine_parts())}
    for file in files:
        if file.path in named:
            continue
        match = _PART.fullmatch(file.path) or _QUARANTINE.fullmatch(file.path)
        if posixpath.basename(file.path).startswith(_TEMPORARY):
            yield Unnamed(file, "temporary")
        elif match is not None:
            merged = MERGED_NAME.fullmatch(match[1])
            yield Unnamed(file, "merged") if merged else Unnamed(file, "part", match[1])
        elif file.path.startswith(("data/", "quarantine/")):
            yield Unnamed(file, "foreign")
