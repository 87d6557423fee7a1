"""Rows by number: random access that reads a row group for each row.

It is meant for look-ups, small datasets and samplers of your own. For training use `TokenDataset`,
which reads every row group once.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any, Final

import torch
from torch.utils.data import Dataset

from pipeline.dataset.part_reader import locate_row
from pipeline.dataset.records import Part
from pipeline.reading.channels import Wanted
from pipeline.reading.checks import require_free
from pipeline.reading.corpus import Corpus

_THREADS: Final = 8
"""Number of parts that are read at a time for one list of rows."""


class TokenMap(Dataset[dict[str, Any]]):
    """The rows of a snapshot by number, in the order of commits.

    Those of a join are in the order of one of its datasets, bucket after bucket.

    A row is `columns` as in a batch of `TokenDataset`, without the first axis, and `bucket`.

    Args:
        snapshot: from `pipeline.open`, or joined.
        columns: names of the columns to read.
        buckets: names of the buckets to read; None reads all.
        normalized: whether latents are normalised, as in `TokenDataset`.
        dtype: type of latents, as of `TokenDataset`.
        channels: number of FSQ channels to keep, as of `TokenDataset`.

    Raises:
        ConfigError: a column or bucket does not exist, the `dtype` is not one of floats, or
            `channels` is wrong or names a column that is not read.
    """

    def __init__(
        self,
        snapshot: Corpus,
        columns: Sequence[str],
        *,
        buckets: Sequence[str] | None = None,
        normalized: bool = False,
        dtype: torch.dtype | None = None,
        channels: Mapping[str, Wanted] | None = None,
    ) -> None:
        require_free(columns, ("bucket",))
        snapshot = Corpus.of(snapshot)
        prefixes = snapshot.prefixes_of(columns, channels)
        self._reader = snapshot.reader(
            columns, normalize=normalized, dtype=dtype, prefixes=prefixes
        )
        chosen = set(snapshot.chosen_buckets(buckets))
        self._parts = [part for part in snapshot.parts() if part.bucket in chosen]
        self._ends = list(accumulate(part.rows for part in self._parts))
        self._last: dict[tuple[Part, int], Any] = {}
        """Row group that was read last: reading the rows in order reads it once."""

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            IndexError: there is no row of that number.
            StoreError: the part cannot be read.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several rows; each row group is read once. A loader calls this for a batch."""
        if not len(indices):
            return []
        places = [self._place(index) for index in indices]
        wanted: dict[Part, list[int]] = {}
        for part, group in dict.fromkeys(place[:2] for place in places):
            if (part, group) not in self._last:
                wanted.setdefault(part, []).append(group)
        with ThreadPoolExecutor(_THREADS) as threads:
            read = list(threads.map(self._reader.read, wanted, wanted.values()))
        loaded = dict(self._last)
        for part, groups in zip(wanted, read, strict=True):
            loaded.update(((part, n), rows) for n, rows in groups.items())
        part, group, _ = places[-1]
        self._last = {(part, group): loaded[part, group]}
        return [self._row(part, loaded[part, group], n) for part, group, n in places]

    def _place(self, index: int) -> tuple[Part, int, int]:
        """Return part, row group and row in it."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        n = bisect_right(self._ends, index)
        part = self._parts[n]
        in_part = index - (self._ends[n] - part.rows)
        group, row = locate_row(self._reader.of(part), in_part)
        return part, group, row

    def _row(self, part: Part, rows: Any, n: int) -> dict[str, Any]:
        batch = self._reader.batch([(rows, n)])
        return {name: values[0] for name, values in batch.items()} | {"bucket": part.bucket}
