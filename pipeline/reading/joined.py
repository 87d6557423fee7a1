"""Datasets and tables that are read as one: the columns of all, for clips that all datasets have.

    dataset ─┐                      ┌─ row groups, read by a reader of its own ─┐
    dataset ─┼─ numbers of one ─────┼─ row groups, read by a reader of its own ─┼─ batches
    table ───┘  clip's rows in each └─ values in memory ────────────────────────┘

The numbers are found when the sides are joined, by id. Files of a snapshot never change, so no row
is ever put beside that of another clip.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from pipeline.dataset.metadata import code_levels
from pipeline.dataset.records import Part
from pipeline.dataset.schema import CLIP_FIELDS, TokenizerColumn
from pipeline.errors import ConfigError
from pipeline.reading.channels import ChannelPrefix, Wanted, channel_prefix, not_indices
from pipeline.reading.committed_rows import CommittedRows
from pipeline.reading.corpus import Corpus
from pipeline.reading.joined_groups import (
    DatasetSide,
    JoinedGroups,
    JoinedPart,
    Side,
    TableSide,
)
from pipeline.reading.joined_table import JoinedTable, read_joined_table
from pipeline.reading.matching import Missing, Numbers, match, stale_units, units_with_rows

_log: Final = logging.getLogger(__name__)


_CLIP_FIELDS: Final = frozenset(column.name for column in CLIP_FIELDS)


@dataclass(frozen=True, slots=True)
class Joined(Corpus):
    """Rows of the clips that all joined datasets have."""

    sides: tuple[CommittedRows | JoinedTable, ...]
    """Datasets and tables. The first is the dataset that the others were joined to."""
    columns: Mapping[str, tuple[int, str]]
    """Number of the side that has a column, and the column's name there, by name."""
    numbers: Mapping[str, tuple[Numbers, ...]] = field(repr=False)
    """Number of each clip's row in each side, by bucket; -1 for no row in a table. With sequences
    [rows, sequence]."""
    missing: tuple[Missing, ...] = ()
    """What only one side of each join has."""
    sequence: int = 1
    """Number of clips of a row."""

    def __len__(self) -> int:
        """Return the number of rows, one per clip or sequence."""
        return sum(len(numbers[0]) for numbers in self.numbers.values())

    @property
    def first(self) -> CommittedRows:
        """The dataset that the others were joined to."""
        assert isinstance(self.sides[0], CommittedRows)
        return self.sides[0]

    @property
    def version(self) -> str:
        """Versions of the datasets, joined by `+`."""
        return "+".join(str(side.version) for side in self.sides if isinstance(side, CommittedRows))

    @property
    def fingerprint(self) -> str:
        """Fingerprints of the datasets and tables, joined by `+`."""
        return "+".join(side.fingerprint for side in self.sides)

    @property
    def buckets(self) -> dict[str, int]:
        """Number of rows by bucket, sorted; buckets without rows are left out."""
        rows = {name: len(numbers[0]) for name, numbers in sorted(self.numbers.items())}
        return {name: count for name, count in rows.items() if count}

    def parts(self, bucket: str | None = None) -> list[Part]:
        """Return the parts of the dataset that has the fewest, with the rows that all have."""
        found: list[Part] = []
        for name in self.numbers if bucket is None else {bucket} & self.numbers.keys():
            leader, parts = self._leader(name)
            firsts = self.numbers[name][leader]
            firsts = firsts if firsts.ndim == 1 else firsts[:, 0]
            order = np.argsort(firsts, kind="stable")
            numbers = [each[order] for each in self.numbers[name]]
            ends = np.cumsum([part.rows for part in parts])
            stops = np.searchsorted(firsts[order], ends).tolist()
            for part, start, stop in zip(parts, [0, *stops], stops, strict=False):
                if start < stop:
                    found.append(JoinedPart.of(part, [each[start:stop] for each in numbers]))
        return found

    def reader(self, columns: Sequence[str], **options: Any) -> JoinedGroups:
        """Return a reader of these columns; it reads only the sides that have them."""
        if isinstance(columns, str) or not columns or set(columns) - self.columns.keys():
            raise ConfigError(f"columns = {columns!r}: must be some of {', '.join(self.columns)}")
        names: dict[int, dict[str, str]] = {}
        for name in columns:
            number, own = self.columns[name]
            names.setdefault(number, {})[own] = name
        return JoinedGroups(
            [self._side(number, names[number], options) for number in sorted(names)], self.sequence
        )

    def video_columns(self, names: Sequence[str]) -> dict[str, TokenizerColumn]:
        """Return the tokenizers of videos among columns; see `Corpus.video_columns`."""
        found = {}
        for name in names:
            number, own = self.columns.get(name, (0, ""))
            side = self.sides[number]
            if isinstance(side, CommittedRows) and (known := side.video_columns([own])):
                found[name] = known[own]
        return found

    def prefixes(self, wanted: Mapping[str, Wanted]) -> dict[str, ChannelPrefix]:
        """Return the prefixes of channels that are read; see `Corpus.prefixes`."""
        known = {}
        for name, (number, own) in self.columns.items():
            side = self.sides[number]
            if isinstance(side, CommittedRows) and own in code_levels(side.dataset.identity):
                known[name] = side.dataset, own
        found = {}
        for name, k in wanted.items():
            if name not in known:
                raise not_indices(name, known)
            found[name] = channel_prefix(*known[name], k, called=name)
        return found

    def sides_of(self, columns: Sequence[str]) -> list[int]:
        """Return the numbers of the datasets that columns are of; see `Corpus.sides_of`."""
        numbers = {self.columns[name][0] for name in columns}
        return sorted(n for n in numbers if isinstance(self.sides[n], CommittedRows))

    def join(self, other: CommittedRows | str, **options: Any) -> "Joined":
        """Return the rows with the columns of one more side; see `Snapshot.join`."""
        return join(self, other, **options)

    def _side(self, number: int, names: Mapping[str, str], options: Mapping[str, Any]) -> Side:
        side = self.sides[number]
        if isinstance(side, JoinedTable):
            gaps = any((numbers[number] < 0).any() for numbers in self.numbers.values())
            typed = side.typed(list(names), gaps=gaps)
            return TableSide(number, {name: typed[own] for own, name in names.items()})
        parts = {bucket: side.parts(bucket) for bucket in self.numbers}
        prefixes = options.get("prefixes", {})
        own = {own: prefixes[name] for own, name in names.items() if name in prefixes}
        options = {**options, "prefixes": own, "called": names}
        return DatasetSide(number, names, side.reader(list(names), **options), parts)

    def _leader(self, bucket: str) -> tuple[int, list[Part]]:
        """Return the number of the dataset with the fewest parts in a bucket, and these.

        A larger part of another dataset would be read once for each of its smaller ones.
        """
        parts = [
            (n, s.parts(bucket)) for n, s in enumerate(self.sides) if isinstance(s, CommittedRows)
        ]
        return min(parts, key=lambda each: len(each[1]))


def join(
    corpus: CommittedRows | Joined,
    other: CommittedRows | str,
    *,
    on: Literal["clip_id", "key"] = "clip_id",
    prefix: str = "",
    storage_options: Mapping[str, Any] | None = None,
) -> Joined:
    """Join a dataset or a table to a corpus; see `Snapshot.join`."""
    corpus = as_joined(corpus)
    if isinstance(other, str):
        joined = _with_table(corpus, other, on, prefix, storage_options or {})
    elif not isinstance(other, CommittedRows) or on != "clip_id":
        raise ConfigError(
            "join: takes one dataset from pipeline.open, on clip_id, or the URI of one Parquet"
            " file; join several one after another: a.join(b).join(c)"
        )
    else:
        joined = _with_dataset(corpus, other, prefix)
    if (missing := joined.missing[-1]).anything:
        _log.warning("join: %s", missing)
    return joined


def as_joined(corpus: Corpus) -> Joined:
    """Return a corpus as the rows of one side, unless several are joined already."""
    if isinstance(corpus, Joined):
        return corpus
    assert isinstance(corpus, CommittedRows)
    columns = {name: (0, name) for name in corpus.schema.names}
    numbers = {bucket: (np.arange(rows),) for bucket, rows in corpus.buckets.items()}
    return Joined((corpus,), columns, numbers)


def _with_dataset(corpus: Joined, other: CommittedRows, prefix: str) -> Joined:
    first = corpus.first
    _require_same_clips(first, other)
    names = [name for name in other.schema.names if prefix or name not in _CLIP_FIELDS]
    columns = _with_columns(corpus, names, prefix, other.store.uri)
    datasets = (side for side in corpus.sides if isinstance(side, CommittedRows))
    stale = set().union(*(stale_units(side, other) for side in datasets))
    numbers: dict[str, tuple[Numbers, ...]] = {}
    for bucket in sorted(corpus.numbers.keys() & other.buckets.keys()):
        known = corpus.numbers[bucket]
        found = match(first, other, bucket, stale)[known[0]]
        numbers[bucket] = (*(each[found >= 0] for each in known), found[found >= 0])
    matched = sum(len(each[0]) for each in numbers.values())
    here, there = units_with_rows(first), units_with_rows(other)
    missing = Missing(
        other=other.store.uri,
        clips_here=len(corpus) - matched,
        clips_there=len(other) - matched,
        units_here=len(here - there),
        units_there=len(there - here),
        units_stale=len(stale),
    )
    return Joined((*corpus.sides, other), columns, numbers, (*corpus.missing, missing))


def _with_table(
    corpus: Joined, uri: str, on: str, prefix: str, storage_options: Mapping[str, Any]
) -> Joined:
    table = read_joined_table(uri, on, storage_options)
    columns = _with_columns(corpus, table.values.column_names, prefix, uri)
    found = table.match(corpus.first)
    numbers = {
        bucket: (*known, found[bucket][known[0]]) for bucket, known in corpus.numbers.items()
    }
    rows = np.concatenate([np.empty(0, np.int64), *(each[-1] for each in numbers.values())])
    missing = Missing(
        other=uri,
        clips_here=int((rows < 0).sum()),
        clips_there=len(table.values) - len(np.unique(rows[rows >= 0])),
    )
    return Joined((*corpus.sides, table), columns, numbers, (*corpus.missing, missing))


def _with_columns(
    corpus: Joined, names: Sequence[str], prefix: str, uri: str
) -> dict[str, tuple[int, str]]:
    """Return the columns of a corpus and of one more side."""
    added = {prefix + name: (len(corpus.sides), name) for name in names}
    if twice := sorted(added.keys() & corpus.columns.keys()):
        raise ConfigError(
            f"{uri}: both sides of the join have {', '.join(twice)}; give prefix=… to rename the"
            " columns of this side"
        )
    return {**corpus.columns, **added}


def _require_same_clips(here: CommittedRows, there: CommittedRows) -> None:
    """Refuse a dataset in which a clip of the same id can show other frames."""
    ours, theirs = (each.dataset.identity.get("clip", {}) for each in (here, there))
    for name in sorted((ours.keys() | theirs.keys()) - {"resize"}) if ours and theirs else ():
        if ours.get(name) != theirs.get(name):
            raise ConfigError(
                f"{there.store.uri}: clip.{name} = {theirs.get(name)!r}, and {ours.get(name)!r} in"
                f" {here.store.uri}, so clips of one id show other frames; join datasets with"
                " equal settings of clip"
            )
