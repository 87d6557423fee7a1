"""Random rows of a dataset, drawn without reading any."""

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.part_reader import locate_row, rows_by_group
from pipeline.dataset.records import Part, UnitRecord
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """Where one row stands."""

    unit: UnitRecord
    part: Part
    n: int
    """Of the row among those that its unit has in the part, from 0."""


def draw_rows(
    manifest: Manifest, count: int, seed: int, *, leave_out: Container[str] = frozenset()
) -> list[DrawnRow]:
    """Draw rows, all alike, without reading any; in the order of the draw.

    Args:
        manifest: what counts.
        count: how many, or all if there are fewer.
        seed: of the draw.
        leave_out: paths of parts from which none is drawn.
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
    """Return a row's columns, None: all; reads one row group.

    Raises:
        FileNotFoundError: its part is missing.
        pyarrow.ArrowException, OSError: its part is damaged.
        StoreError: the store refuses.
    """
    with store.open(drawn.part.path) as file:
        parquet = pq.ParquetFile(file)
        groups = rows_by_group(parquet.metadata, drawn.part)
        index, n = locate_row(groups, drawn.n)
        rows = groups[index].of(parquet.read_row_group(groups[index].group, columns=columns))
        row: dict[str, Any] = rows.slice(n, 1).to_pylist()[0]
        return row
