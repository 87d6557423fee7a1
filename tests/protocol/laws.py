"""What must hold after every write and deletion, checked by other code than the pipeline's.

The laws are the promises of docs/explanation/architecture.md: every file that the log or a table
names exists, no unit and no source counts twice, only work that began after a retry answers it, and
what the log forgot comes back in no unit.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = "root/"


class Broken(BaseException):
    """A law is broken. No handler of the code under test catches it."""


class Laws:
    """The state of the log, replayed record by record.

    Attributes:
        number: number of the newest record.
        units: unit → its record, with the parts that it has now.
        reopened: unit → number of the record that reopened it.
        table: paths that the newest version of the published table names.
        forgotten: digests that records forgot.
        asked_to_forget: keys that any command was asked to forget.
        forgotten_for_readers: keys of the commands that ended well.
        announced: versions that tables follow which are announced and not published yet.
        broken: the first law that was broken.
    """

    def __init__(self, files: Mapping[str, tuple[bytes, float]]) -> None:
        self._files = files
        self._written: set[str] = set()
        self.number = 0
        self.units: dict[str, dict[str, Any]] = {}
        self.reopened: dict[str, int] = {}
        self.table: set[str] = set()
        self.forgotten: set[str] = set()
        self.asked_to_forget: set[str] = set()
        self.forgotten_for_readers: set[str] = set()
        self.announced: list[int] = []
        self.broken = ""

    def written(self, path: str, *, is_new: bool) -> None:
        """Check a write; the file holds it already."""
        name = path.removeprefix(ROOT)
        folder = name.partition("/")[0]
        if folder in ("log", "data", "quarantine", "_delta_log"):
            self._demand(is_new and name not in self._written, f"{name} is written twice")
            self._written.add(name)
        if folder == "log":
            self._apply(json.loads(self._files[path][0]), name)
        elif folder == "_delta_log":
            self.table = set(json.loads(self._files[path][0])["paths"])
            self.announced = [base for base in self.announced if base >= int(name[-25:-5])]
            lost = [path for path in sorted(self.table) if ROOT + path not in self._files]
            self._demand(not lost, f"the table names {lost}, which are gone")

    def deleted(self, path: str) -> None:
        """Check a deletion."""
        name = path.removeprefix(ROOT)
        self._demand(name not in self.named(), f"{name} is deleted, and the log names it")
        self._demand(name not in self.table, f"{name} is deleted, and the table names it")
        self._demand(name.startswith(("data/", "quarantine/", ".probe-")), f"{name} is deleted")

    def named(self) -> set[str]:
        """Return the paths that the log names."""
        return {file["path"] for unit in self.units.values() for file in _files(unit)}

    def _apply(self, record: dict[str, Any], name: str) -> None:
        self.number += 1
        self._demand(name == f"log/{self.number:020d}.json", f"{name} leaves a gap")
        for unit in record["units"]:
            keys = {key for part in unit["parts"] for key in self._values(part, "key")}
            back = sorted(key for key in keys if _digest(key) in self.forgotten)
            self._demand(not back, f"{unit['unit']} brings {back} back, which are forgotten")
            known, asked = unit["unit"] in self.units, self.reopened.get(unit["unit"])
            self._demand(not known or asked is not None, f"{unit['unit']} is committed twice")
            begun = int(unit["timings"]["begun"])
            self._demand(asked is None or begun >= asked, f"{unit['unit']}: its retry is undone")
            others = [other for key, other in self.units.items() if key != unit["unit"]]
            taken = {source for other in others for source in other["sources"]}
            self._demand(
                taken.isdisjoint(unit["sources"]), f"sources of {unit['unit']} count twice"
            )
            self.reopened.pop(unit["unit"], None)
            self.units[unit["unit"]] = unit
        self.forgotten.update(record["forgotten"])
        self.announced += [table["base"] for table in record["published"]]
        for unit in record["reopened"]:
            self.reopened[unit["unit"]] = self.number
        for moved in record["moved"]:
            unit = self.units[moved["unit"]]
            before = self._rows(unit)
            self.units[moved["unit"]] = {**unit, "parts": moved["parts"]}
            after = self._rows(self.units[moved["unit"]])
            self._demand(after == before, f"{moved['unit']}: its rows change when they move")
        for trimmed in record["trimmed"]:
            unit = self.units[trimmed["unit"]]
            before = self._rows(unit)
            self.units[trimmed["unit"]] = {**unit, **trimmed}
            kept = [row for row in before if _digest(row[1]) not in self.forgotten]
            lost = {_digest(row[1]) for row in before}.difference(_digest(row[1]) for row in kept)
            after = self._rows(self.units[trimmed["unit"]])
            self._demand(
                set(kept) <= set(after) <= set(before) and after != before and bool(lost),
                f"{trimmed['unit']}: other rows than the forgotten ones are left out",
            )
        for changed in (*record["units"], *record["moved"], *record["trimmed"]):
            for file in _files(self.units[changed["unit"]]):
                self._exists(changed["unit"], file)

    def _exists(self, unit: str, file: dict[str, Any]) -> None:
        held = self._files.get(ROOT + file["path"])
        self._demand(held is not None, f"{unit} names {file['path']}, which is gone")
        if held is not None:
            digest = hashlib.sha256(held[0]).hexdigest()
            self._demand(digest == file["sha256"], f"{file['path']} holds other bytes")

    def _rows(self, unit: dict[str, Any]) -> list[tuple[str, str]]:
        """Return the rows of a unit: the result that each belongs to, and its key."""
        return [
            row
            for part in unit["parts"]
            for row in zip(self._values(part, "caption"), self._values(part, "key"), strict=True)
        ]

    def _values(self, part: dict[str, Any], name: str) -> list[str]:
        """Return a column of the rows of a part that count."""
        held = self._files.get(ROOT + part["path"])
        self._demand(held is not None, f"{part['path']} is named, and is gone")
        assert held is not None
        values = pq.ParquetFile(pa.BufferReader(held[0])).read([name])[name].to_pylist()
        place = part["place"] or {"first_row": 0, "left_out": []}
        gone = {n for first, stop in place["left_out"] for n in range(first, stop)}
        rows = [v for n, v in enumerate(values) if n >= place["first_row"] and n not in gone]
        return rows[: part["rows"]]

    def _demand(self, holds: bool, text: str) -> None:
        if not holds:
            self.broken = self.broken or text
            raise Broken(text)


@cache
def _digest(key: str) -> str:
    return hashlib.sha256(b"key\0" + key.encode()).hexdigest()[:32]


def _files(unit: dict[str, Any]) -> list[dict[str, Any]]:
    return [*unit["parts"], *([unit["quarantine"]] if unit["quarantine"] else [])]
