"""Random rows of a dataset, drawn without reading any."""

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.log.manifest import Manifest
from pipeline.dataset.parquet_file import read_group
from pipeline.dataset.part_reader import locate_row, open_parquet, rows_by_group
from pipeline.dataset.records import Part, UnitRecord
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """Where one row is stored."""

    unit: UnitRecord
    """Unit that the row belongs to."""
    part: Part
    """Part that holds the row."""
    n: int
    """Number of the row among the unit's rows in the part, from 0."""


def draw_rows(
    manifest: Manifest, count: int, seed: int, *, leave_out: Container[str] = frozenset()
) -> list[DrawnRow]:
    """Draw rows uniformly without reading any; in random order.

    Args:
        manifest: the units that count.
        count: number of rows; all are drawn if there are fewer.
        seed: random seed.
        leave_out: paths of parts to leave out.
    """
    total = sum(part.rows for part in manifest.parts() if part.path not in leave_out)
    drawn = random.Random(seed).sample(range(total), min(count, total))
    ahead = sorted(drawn, reverse=True)
    found: dict[int, DrawnRow] = {}
    start = 0
    for unit in manifest.units() if ahead else ():
        for part in unit.parts:
            if part.path not in leave_out:
                while ahead and ahead[-1] < start + part.rows:
                    place = ahead.pop()
                    found[place] = DrawnRow(unit, part, place - start)
                start += part.rows
    return [found[place] for place in drawn]


def read_row(store: Store, drawn: DrawnRow, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Return a row by column; reads one row group.

    Args:
        store: the dataset's root.
        drawn: the row.
        columns: names of the columns to read; None reads all.

    Raises:
        DamagedFile: the part is missing or damaged.
        StoreError: the store refuses.
    """
    part = drawn.part
    with open_parquet(store, part.path, num_bytes=part.bytes) as parquet:
        groups = rows_by_group(parquet.metadata, part)
        index, n = locate_row(groups, drawn.n)
        rows = groups[index].of(read_group(parquet, groups[index].group, columns))
        row: dict[str, Any] = rows.slice(n, 1).to_pylist()[0]
        return row
