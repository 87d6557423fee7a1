"""What an export holds: its settings, and the groups of units whose files are complete.

    _export/settings.json        what was asked for; another export is refused here
    _export/groups/<group>.json  counts of a group, written after its last file

So a group with a record is complete. Files of a group without one are written again, with the same
bytes under the same names.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pipeline.dataset.format_version import FORMAT_VERSION, parse_versioned, versioned_json
from pipeline.dataset.metadata import differences
from pipeline.errors import DatasetMismatch
from pipeline.storage.store import Store

FOLDER: Final = "_export"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """What was exported of some units."""

    group: str
    """Name of the group."""
    units: dict[str, str]
    """State of each unit's rows, by unit."""
    rows: int
    """Number of rows of the units."""
    clips: int
    """Number of clips that were written."""
    left_out: dict[str, int]
    """Number of rows that were not written, by reason."""
    files: int
    """Number of files."""
    bytes: int
    """Number of bytes of the files."""
    format_version: int = FORMAT_VERSION
    """Version of the format of this record."""


class Ledger:
    """The records of an export.

    Args:
        store: root of the export.
        settings: everything that changes its files, as JSON.

    Raises:
        DatasetMismatch: the folder holds an export with other settings.
        StoreError: the store refuses, or a record is damaged.
    """

    def __init__(self, store: Store, settings: dict[str, Any]) -> None:
        self._store = store
        path = f"{FOLDER}/settings.json"
        wanted = json.dumps(settings, sort_keys=True, indent=1).encode()
        stored = store.put_or_read(path, wanted)
        if stored != wanted:
            lines = "".join(
                f"\n  {name}: {then} there, {now} in this export"
                for name, then, now in differences(_settings(stored), settings)
            )
            raise DatasetMismatch(
                f"--out {store.uri}: holds another export, or other files; choose an empty"
                f" folder:{lines}"
            )
        self.groups = list(self._read())

    def add(self, record: GroupRecord) -> None:
        """Record that the files of a group are complete."""
        self._store.write(f"{FOLDER}/groups/{record.group}.json", versioned_json(record))
        self.groups.append(record)

    def _read(self) -> Iterator[GroupRecord]:
        for path in self._store.list(f"{FOLDER}/groups"):
            where = self._store.locate(path)
            what, fix = "a record of an export", "export to an empty folder"
            yield parse_versioned(GroupRecord, self._store.read(path), where, what, fix)


def _settings(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return {"settings": "(damaged)"}
