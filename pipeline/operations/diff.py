"""Compares two datasets: settings, units, clips, tokens, other columns, and quarantine.

Units are matched by their ids, which follow from the URIs of the sources. Clips are matched by
their ids. Units whose parts have equal digests are not read. Of the others, the digests of one
unit's clips are in memory at a time.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import Dataset, differences, read_dataset
from pipeline.dataset.part_reader import open_parquet, part_rows
from pipeline.dataset.records import RowSpan, UnitRecord
from pipeline.formatting import labelled
from pipeline.operations.outcome import Outcome, first_of
from pipeline.records import name_of
from pipeline.storage.store import Store

_EXAMPLES: Final = 5


_PLACE: Final = ("start_s", "end_s", "crop", "num_frames", "padded_frames")


PLACE: Final = "clip.place"
"""Name, beside those of tokenizers and columns, of what a clip is cut from."""

_IDS: Final = ("clip_id", "unit", "key", "clip_index")
"""Columns by which clips are matched."""


@dataclass(slots=True)
class DiffGroup:
    """Number of units, clips or samples that differ in one way, with the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more."""
        self.count += 1
        if self.count <= _EXAMPLES:
            self.examples.append(example)

    def lines(self, what: str) -> list[str]:
        """Return the lines to print; none if nothing differs."""
        if not self.count:
            return []
        return [f"  {self.count} {what}", *first_of(self.count, self.examples, "    ")]


@dataclass(slots=True)
class Overlap:
    """Number of units or clips in both datasets, and those in one only."""

    both: int = 0
    only_a: DiffGroup = field(default_factory=DiffGroup)
    only_b: DiffGroup = field(default_factory=DiffGroup)

    def lines(self, what: str) -> list[str]:
        """Return the lines to print."""
        only = (*self.only_a.lines("only in a"), *self.only_b.lines("only in b"))
        return [labelled(what, f"{self.both} in both"), *only]


@dataclass(slots=True)
class Difference(Outcome):
    """What two datasets do not have in common; `a` is the first, `b` the second."""

    a: str
    b: str
    fingerprints: tuple[str, str]
    settings: dict[str, list[str]]
    """Values in a and in b, by dotted name of the setting."""
    units: Overlap = field(default_factory=Overlap)
    clips: Overlap = field(default_factory=Overlap)
    """Clips of units that both datasets have."""
    clips_differ: dict[str, DiffGroup] = field(default_factory=dict)
    """Clips with other tokens, or other numbers such as `N_channels`, by tokenizer that both have;
    with another value by other column that both have, such as `caption`; `clip.place`: cut from
    another place."""
    tokenizers: tuple[str, ...] = ()
    """Tokenizers that both have."""
    quarantine: DiffGroup = field(default_factory=DiffGroup)
    """Samples and clips that are quarantined in one only, or for different reasons."""

    @property
    def exit_code(self) -> int:
        """Exit code: 0 when the datasets hold the same, else 1."""
        only = [group for o in (self.units, self.clips) for group in (o.only_a, o.only_b)]
        groups = (*only, *self.clips_differ.values(), self.quarantine)
        return 1 if self.settings or any(group.count for group in groups) else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, and whether the datasets are the same."""
        return {"same": self.exit_code == 0, **Outcome.to_dict(self)}

    def lines(self) -> list[str]:
        """Return the lines to print."""
        one, other = self.fingerprints
        made_by = f"fingerprint {one}, both" if one == other else f"fingerprint {one} | {other}"
        lines = [labelled("a", self.a), labelled("b", self.b), labelled("made by", made_by)]
        lines += [f"  {name}: {a} | {b}" for name, (a, b) in self.settings.items()]
        lines += self.units.lines("units") + self.clips.lines("clips")
        for name, group in self.clips_differ.items():
            differ = f"have another value in the column {name}"
            if name == PLACE:
                differ = "are cut from another place"
            elif name in self.tokenizers:
                differ = f"have other {name} tokens or numbers"
            lines += group.lines(differ)
        lines += self.quarantine.lines("are quarantined differently")
        lines.append(labelled("verdict", "they differ" if self.exit_code else "the same"))
        return lines


def diff(a: Store, b: Store) -> Difference:
    """Compare two datasets.

    Raises:
        ConfigError: there is no dataset at one of the two places.
        StoreError: a log or part is damaged, or a store refuses.
    """
    heads = read_dataset(a), read_dataset(b)
    columns = _common(*heads)
    result = Difference(
        a.uri,
        b.uri,
        (heads[0].fingerprint, heads[1].fingerprint),
        {n: values for n, *values in differences(heads[0].identity, heads[1].identity)},
        clips_differ={name: DiffGroup() for name in columns},
        tokenizers=tuple(name for name in _written(heads[0]) if name in columns),
    )
    others = {unit.unit: unit for unit in read_manifest(b).units()}
    for unit in read_manifest(a).units():
        other = others.pop(unit.unit, None)
        if other is None:
            result.units.only_a.add(unit.unit)
            continue
        result.units.both += 1
        if _digests(unit) == _digests(other):
            result.clips.both += unit.counts.clips_written
        else:
            _compare_clips(_clips(a, unit, columns), _clips(b, other, columns), result)
        _compare_quarantine(_quarantined(a, unit), _quarantined(b, other), result)
    for unit_id in others:
        result.units.only_b.add(unit_id)
    return result


def _common(a: Dataset, b: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the columns that both datasets have of a clip, in groups that are compared.

    A group is the place of a clip, what a tokenizer writes, or one other column.
    """
    ours, theirs = _written(a), _written(b)
    groups = {PLACE: _PLACE} | {
        name: tuple(column for column in columns if column in theirs[name])
        for name, columns in ours.items()
        if name in theirs
    }
    known = {*_IDS, *_PLACE, *chain(*ours.values(), *theirs.values())}
    both = set(b.schema.names) - known
    return groups | {name: (name,) for name in a.schema.names if name in both}


def _written(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the columns of a clip that a tokenizer writes, by tokenizer."""
    return {
        c.name: (
            f"{c.name}_shape",
            *c.cell_columns,
            *c.scale_columns,
            *dataset.token_numbers(c.name),
        )
        for c in dataset.tokenizers
    }


def _digests(unit: UnitRecord) -> list[tuple[str, int, RowSpan | None]]:
    return [(part.sha256, part.rows, part.place) for part in unit.parts]


Clips = Iterator[tuple[str, tuple[bytes, ...]]]
"""Ids of clips, with the digest of each group of columns."""


def _clips(store: Store, unit: UnitRecord, columns: dict[str, tuple[str, ...]]) -> Clips:
    groups = columns.values()
    wanted = ["clip_id", *(name for group in groups for name in group)]
    for part in unit.parts:
        for rows in part_rows(store, part, wanted):
            for row in rows.to_pylist():
                yield row["clip_id"], tuple(_digest(row, group) for group in groups)


def _digest(row: dict[str, Any], names: Sequence[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        value = row[name]
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
        digest.update(b"\0")
    return digest.digest()


def _compare_clips(clips: Clips, others: Clips, result: Difference) -> None:
    left = dict(clips)
    for clip_id, digests in others:
        ours = left.pop(clip_id, None)
        if ours is None:
            result.clips.only_b.add(clip_id)
            continue
        result.clips.both += 1
        for group, one, other in zip(result.clips_differ.values(), ours, digests, strict=True):
            if one != other:
                group.add(clip_id)
    for clip_id in left:
        result.clips.only_a.add(clip_id)


def _quarantined(store: Store, unit: UnitRecord) -> dict[str, str]:
    """Return the reasons of a unit's quarantined samples and clips, by their id."""
    if unit.quarantine is None:
        return {}
    table = unit.quarantine
    with open_parquet(store, table.path, num_bytes=table.bytes) as parquet:
        rows = parquet.read(columns=["key", "clip_index", "reason"]).to_pylist()
    return {name_of(unit.unit, row["key"], row["clip_index"]): row["reason"] for row in rows}


def _compare_quarantine(ours: dict[str, str], theirs: dict[str, str], result: Difference) -> None:
    for name in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(name, "-"), theirs.get(name, "-")
        if one != other:
            result.quarantine.add(f"{name}: {one} | {other}")
