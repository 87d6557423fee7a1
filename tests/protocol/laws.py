"""What must hold after every write and deletion, checked by other code than the pipeline's.

The laws are the promises of docs/architecture.md: every file that the log or a table names exists,
no unit and no source counts twice, and only work that began after a retry answers it.
"""

import hashlib
import json
from collections.abc import Mapping
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
        self.announced += [table["base"] for table in record["published"]]
        for unit in record["reopened"]:
            self.reopened[unit["unit"]] = self.number
        for moved in record["moved"]:
            unit = self.units[moved["unit"]]
            self.units[moved["unit"]] = {**unit, "parts": moved["parts"]}
            results = [row for part in moved["parts"] for row in self._results(part)]
            wanted = [str(int(unit["timings"]["begun"]))] * len(unit["sources"])
            self._demand(results == wanted, f"{moved['unit']}: its rows change when they move")
        for changed in (*record["units"], *record["moved"]):
            for file in _files(self.units[changed["unit"]]):
                self._exists(changed["unit"], file)

    def _exists(self, unit: str, file: dict[str, Any]) -> None:
        held = self._files.get(ROOT + file["path"])
        self._demand(held is not None, f"{unit} names {file['path']}, which is gone")
        if held is not None:
            digest = hashlib.sha256(held[0]).hexdigest()
            self._demand(digest == file["sha256"], f"{file['path']} holds other bytes")

    def _results(self, part: dict[str, Any]) -> list[str]:
        """Return for each row of a part which result it belongs to."""
        held = self._files.get(ROOT + part["path"])
        self._demand(held is not None, f"rows move into {part['path']}, which is gone")
        assert held is not None
        rows = pq.ParquetFile(pa.BufferReader(held[0])).read(["caption"])["caption"].to_pylist()
        first = part["place"]["first_row"] if part["place"] else 0
        return rows[first : first + part["rows"]]

    def _demand(self, holds: bool, text: str) -> None:
        if not holds:
            self.broken = self.broken or text
            raise Broken(text)


def _files(unit: dict[str, Any]) -> list[dict[str, Any]]:
    return [*unit["parts"], *([unit["quarantine"]] if unit["quarantine"] else [])]
