"""Reads joined parts: rows whose cells come from the row groups of several datasets.

A row group of a joined part ends where one of any dataset ends. Those in one row group of the
dataset with the largest are a run, which a shuffle keeps together. So large row groups are read
once, and of the small ones only those at the ends of runs are read twice.

A row can also be a sequence of clips. It belongs to the row group of its first clip.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import pairwise
from threading import Lock
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import torch

from pipeline.dataset.part_reader import GroupRows
from pipeline.dataset.records import Part
from pipeline.reading.columns import WINDOW_COLUMNS
from pipeline.reading.matching import Numbers
from pipeline.reading.row_groups import RowGroups

_PARTS_KEPT: Final = 256
"""Number of joined parts whose row groups are kept: each takes a few kB."""

_GROUPS_TOGETHER: Final = 4
"""Number of row groups that a shuffle keeps together where rows are sequences: a sequence that
begins in one row group and ends in the next reads both."""


_SAME_IN_ALL_SIDES: Final = {name: name for name in WINDOW_COLUMNS}


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedPart(Part):
    """A part of one dataset, with the rows of other datasets and tables that belong to its own."""

    numbers: tuple[Numbers, ...] = field(compare=False, repr=False)
    """Number of each row in each side: [rows], or [rows, sequence]."""

    @classmethod
    def of(cls, part: Part, numbers: Sequence[Numbers]) -> "JoinedPart":
        """Return the part with these rows alone."""
        values = {each.name: getattr(part, each.name) for each in fields(Part)}
        return cls(**values | {"rows": len(numbers[0])}, numbers=tuple(numbers))


class Side(Protocol):
    """The columns that are read from one dataset or table of a join."""

    number: int
    """Number of the side."""

    def ends(self, bucket: str, numbers: Numbers) -> list[int] | None:
        """Return where a row group ends among rows of these numbers, without the last.

        None stands for a side without row groups.
        """
        ...

    def read(self, bucket: str, numbers: Numbers) -> list[tuple[Any, int]]:
        """Read rows, for `batch`."""
        ...

    def batch(self, rows: Sequence[tuple[Any, int]], draws: Sequence[int] | None) -> dict[str, Any]:
        """Return one batch of this side's columns; see `RowReader.batch`."""
        ...


class LoadedGroup:
    """A row group of one side, as long as rows of it are held."""

    def __init__(self) -> None:
        self.lock = Lock()
        """Lock of the thread that reads it."""
        self.rows: Any = None
        """Rows for the side's reader; None before they are read."""


class DatasetSide:
    """The columns that are read from one dataset of a join.

    Args:
        number: number of the side.
        names: names in the batch, by the dataset's own.
        reader: reader of these columns.
        parts: parts of the dataset, by bucket.
    """

    def __init__(
        self,
        number: int,
        names: Mapping[str, str],
        reader: RowGroups,
        parts: Mapping[str, Sequence[Part]],
    ) -> None:
        self.number = number
        self._names = names
        self._reader = reader
        self._parts = parts
        self._ends = {name: np.cumsum([part.rows for part in each]) for name, each in parts.items()}
        self._groups: WeakValueDictionary[tuple[str, int, int], LoadedGroup] = WeakValueDictionary()
        """Row groups that are held, by bucket, part and number: neighbouring pools share some."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without what is held here."""
        return DatasetSide, (self.number, self._names, self._reader, self._parts)

    def ends(self, bucket: str, numbers: Numbers) -> list[int]:
        """Return where a row group ends among rows of these numbers, without the last.

        Raises:
            StoreError: a part cannot be read.
        """
        parts, groups, _ = self._places(bucket, numbers)
        changes = np.flatnonzero((np.diff(parts) != 0) | (np.diff(groups) != 0)) + 1
        ends: list[int] = changes.tolist()
        return ends

    def read(self, bucket: str, numbers: Numbers) -> list[tuple[Any, int]]:
        """Read the row groups of rows, each once, and return each row as row n of one.

        Raises:
            StoreError: a part cannot be read.
        """
        parts, groups, rows = self._places(bucket, numbers)
        loaded: dict[tuple[int, int], LoadedGroup] = {}
        for n in np.unique(parts).tolist():
            wanted = np.unique(groups[parts == n]).tolist()
            loaded.update(((n, group), each) for group, each in self._load(bucket, n, wanted))
        places = zip(parts.tolist(), groups.tolist(), rows.tolist(), strict=True)
        return [(loaded[part, group], row) for part, group, row in places]

    def batch(self, rows: Sequence[tuple[Any, int]], draws: Sequence[int] | None) -> dict[str, Any]:
        """Return one batch of this side's columns; see `pipeline.reading.columns.Columns.batch`."""
        batch = self._reader.batch([(group.rows, n) for group, n in rows], draws)
        names = self._names if draws is None else {**self._names, **_SAME_IN_ALL_SIDES}
        return {name: batch[own] for own, name in names.items()}

    def _load(self, bucket: str, n: int, groups: Sequence[int]) -> list[tuple[int, LoadedGroup]]:
        """Return row groups of part n, ascending; read those that nobody holds, in one go."""
        loaded = [
            (group, self._groups.setdefault((bucket, n, group), LoadedGroup())) for group in groups
        ]
        with ExitStack() as locks:
            for _, each in loaded:
                locks.enter_context(each.lock)
            if missing := {group: each for group, each in loaded if each.rows is None}:
                read = self._reader.read(self._parts[bucket][n], list(missing))
                for group, each in missing.items():
                    each.rows = read[group]
        return loaded

    def _places(self, bucket: str, numbers: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return part, row group in the part and row in the row group, each as numbers."""
        ends = self._ends[bucket]
        parts = np.searchsorted(ends, numbers, "right")
        groups, rows = np.empty_like(numbers), np.empty_like(numbers)
        for n in np.unique(parts).tolist():
            part = self._parts[bucket][n]
            stops = np.cumsum([0, *self._reader.sizes(part)])
            here = parts == n
            in_part = numbers[here] - (ends[n] - part.rows)
            groups[here] = found = np.searchsorted(stops, in_part, "right") - 1
            rows[here] = in_part - stops[found]
        return parts, groups, rows


class TableSide:
    """The columns that are read from one table of a join.

    Args:
        number: number of the side.
        values: the columns, by their names in the batch.
    """

    def __init__(self, number: int, values: Mapping[str, pa.Array]) -> None:
        self.number = number
        self._values = values

    def ends(self, bucket: str, numbers: Numbers) -> None:
        """Return None: the table is in memory."""

    def read(self, bucket: str, numbers: Numbers) -> list[tuple[Any, int]]:
        """Return each row by its number."""
        return [(None, n) for n in numbers.tolist()]

    def batch(self, rows: Sequence[tuple[Any, int]], draws: Sequence[int] | None) -> dict[str, Any]:
        """Return one batch: tensors [N] of numbers, NaN for none, and lists of other values."""
        numbers = np.array([n for _, n in rows])
        taken = pa.array(numbers, mask=numbers < 0)
        batch: dict[str, Any] = {}
        for name, values in self._values.items():
            column = values.take(taken)
            if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
                numeric = column.to_numpy(zero_copy_only=False)
                batch[name] = torch.from_numpy(np.array(numeric))
            else:
                batch[name] = column.to_pylist()
        return batch


JoinedRows = Sequence[Sequence[tuple[Any, int]]]
"""Rows of a joined row group, by side that is read."""


class JoinedGroups:
    """Reads row groups of joined parts.

    Args:
        sides: sides to read.
        sequence: number of clips of a row.
    """

    def __init__(self, sides: Sequence[Side], sequence: int = 1) -> None:
        self._sides = sides
        self._sequence = sequence
        self._of = lru_cache(_PARTS_KEPT)(self._find_groups)

    def of(self, part: Part) -> list[GroupRows]:
        """Return the row groups of a part: number of the run, first row in the part, rows.

        Raises:
            StoreError: a part cannot be read.
        """
        return self._of(part)

    def runs(self, part: Part) -> list[list[int]]:
        """Return the number of rows of each row group of a part, in runs; errors as `of`."""
        runs: dict[int, list[int]] = {}
        for rows in self.of(part):
            runs.setdefault(rows.group, []).append(rows.rows)
        return list(runs.values())

    def read(self, part: Part, groups: Sequence[int]) -> dict[int, JoinedRows]:
        """Read row groups by their index in `of`; errors as `of`."""
        assert isinstance(part, JoinedPart)
        known = [self.of(part)[n] for n in groups]
        rows = np.concatenate([np.arange(each.first, each.first + each.rows) for each in known])
        read = [
            side.read(part.bucket, part.numbers[side.number][rows].ravel()) for side in self._sides
        ]
        ends = np.cumsum([each.rows * self._sequence for each in known]).tolist()
        runs = zip(groups, [0, *ends], ends, strict=False)
        return {n: [each[start:stop] for each in read] for n, start, stop in runs}

    def batch(
        self, rows: Sequence[tuple[JoinedRows, int]], draws: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return one batch of all sides' columns; of sequences with [N, sequence] in front."""
        batch: dict[str, Any] = {}
        size = self._sequence
        for place, side in enumerate(self._sides):
            clips = [sides[place][n * size + k] for sides, n in rows for k in range(size)]
            batch |= side.batch(clips, draws)
        if size > 1:
            batch = {name: _in_sequences(values, size) for name, values in batch.items()}
        return batch

    def __reduce__(self) -> tuple[type["JoinedGroups"], tuple[Sequence[Side], int]]:
        """Go to another process without what is kept here."""
        return JoinedGroups, (self._sides, self._sequence)

    def _find_groups(self, part: Part) -> list[GroupRows]:
        """Return the row groups of a part; `group` is the number of their run."""
        assert isinstance(part, JoinedPart)
        numbers = [(side, part.numbers[side.number]) for side in self._sides]
        found = (side.ends(part.bucket, n if n.ndim == 1 else n[:, 0]) for side, n in numbers)
        ends = [each for each in found if each is not None]
        cuts = [0, *sorted(set().union(*ends)), part.rows]
        run_ends = min(ends, key=len, default=[])
        runs = np.searchsorted(run_ends, cuts, "right")
        if self._sequence > 1:
            runs //= _GROUPS_TOGETHER
        pairs = zip(runs.tolist(), pairwise(cuts), strict=False)
        return [GroupRows(run, a, b - a) for run, (a, b) in pairs]


def _in_sequences(values: Any, size: int) -> Any:
    """Return a column of a batch with its rows in sequences: [N, size, …], or N lists."""
    if isinstance(values, torch.Tensor):
        return values.view(-1, size, *values.shape[1:])
    return [values[start : start + size] for start in range(0, len(values), size)]
