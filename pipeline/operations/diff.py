"""How two datasets differ: what made them, what they hold, and which tokens are others.

Units are matched by their ids, which follow from the sources' URIs, and clips by theirs. Units
whose parts have the same digests are not read. Of the others, the digests of one unit's clips are
in memory at a time.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.metadata import Dataset, differences, read_dataset
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.records import UnitRecord
from pipeline.storage.store import Store

_EXAMPLES: Final = 5


_PLACE: Final = ("start_s", "end_s", "crop", "num_frames", "padded_frames")


CLIP: Final = "clip"
"""Stands beside the tokenizers' names for what a clip is cut from."""


@dataclass(slots=True)
class DiffGroup:
    """How many of something, and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more."""
        self.count += 1
        if self.count <= _EXAMPLES:
            self.examples.append(example)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"count": self.count, "examples": self.examples}


@dataclass(slots=True)
class Difference:
    """What two datasets do not have in common; `a` is the first, `b` the second."""

    a: str
    b: str
    fingerprints: tuple[str, str]
    settings: list[tuple[str, str, str]]
    """Dotted name, value in a, value in b."""
    units_both: int = 0
    units_only: dict[str, DiffGroup] = field(
        default_factory=lambda: {"a": DiffGroup(), "b": DiffGroup()}
    )
    clips_both: int = 0
    """In units that both have, as all that follows."""
    clips_only: dict[str, DiffGroup] = field(
        default_factory=lambda: {"a": DiffGroup(), "b": DiffGroup()}
    )
    clips_differ: dict[str, DiffGroup] = field(default_factory=dict)
    """By tokenizer that both have; `clip` counts those cut from another place of their source."""
    quarantine: DiffGroup = field(default_factory=DiffGroup)
    """Samples and clips that are quarantined in one only, or for another reason."""

    @property
    def exit_code(self) -> int:
        """0 when the datasets hold the same."""
        groups = (*self.units_only.values(), *self.clips_only.values(), *self.clips_differ.values())
        differ = self.settings or self.quarantine.count or any(group.count for group in groups)
        return 1 if differ else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "a": self.a,
            "b": self.b,
            "same": self.exit_code == 0,
            "fingerprints": list(self.fingerprints),
            "settings": {name: [then, now] for name, then, now in self.settings},
            "units": {"both": self.units_both, **_dicts("only_", self.units_only)},
            "clips": {
                "both": self.clips_both,
                **_dicts("only_", self.clips_only),
                "differ": _dicts("", self.clips_differ),
            },
            "quarantine": self.quarantine.to_dict(),
        }

    def lines(self) -> list[str]:
        """Return the same for a person."""
        lines = [f"a           {self.a}", f"b           {self.b}"]
        if self.fingerprints[0] == self.fingerprints[1]:
            lines.append(f"made by     fingerprint {self.fingerprints[0]}, both")
        else:
            lines.append(f"made by     fingerprint {self.fingerprints[0]} | {self.fingerprints[1]}")
        lines += [f"  {name}: {then} | {now}" for name, then, now in self.settings]
        lines.append(f"units       {self.units_both} in both")
        for side, group in self.units_only.items():
            lines += _lines(f"only in {side}", group)
        lines.append(f"clips       {self.clips_both} in both")
        for side, group in self.clips_only.items():
            lines += _lines(f"only in {side}", group)
        for name, group in self.clips_differ.items():
            what = "are cut from another place" if name == CLIP else f"have other {name} tokens"
            lines += _lines(what, group)
        lines += _lines("are quarantined in one only, or for another reason", self.quarantine)
        lines.append("verdict     " + ("the same" if self.exit_code == 0 else "they differ"))
        return lines


def _dicts(prefix: str, groups: dict[str, DiffGroup]) -> dict[str, Any]:
    return {f"{prefix}{name}": group.to_dict() for name, group in groups.items()}


def _lines(what: str, group: DiffGroup) -> list[str]:
    if not group.count:
        return []
    more = [f"    and {group.count - _EXAMPLES} more"] if group.count > _EXAMPLES else []
    return [f"  {group.count} {what}", *(f"    {text}" for text in group.examples), *more]


def diff(a: Store, b: Store) -> Difference:
    """Compare two datasets.

    Raises:
        ConfigError: there is no dataset at one of the two places.
        StoreError: a log is damaged, or a store refuses.
    """
    heads = read_dataset(a), read_dataset(b)
    columns = _common(*heads)
    result = Difference(
        a.uri,
        b.uri,
        (heads[0].fingerprint, heads[1].fingerprint),
        list(differences(heads[0].identity, heads[1].identity)),
        clips_differ={name: DiffGroup() for name in (CLIP, *columns)},
    )
    others = {unit.unit: unit for unit in read_manifest(b).units()}
    for unit in read_manifest(a).units():
        other = others.pop(unit.unit, None)
        if other is None:
            result.units_only["a"].add(unit.unit)
            continue
        result.units_both += 1
        if _digests(unit) == _digests(other):
            result.clips_both += unit.counts.clips_written
        else:
            _compare_clips(_clips(a, unit, columns), _clips(b, other, columns), result)
        _compare_quarantine(_quarantined(a, unit), _quarantined(b, other), result)
    for unit_id in others:
        result.units_only["b"].add(unit_id)
    return result


def _common(a: Dataset, b: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the columns that make a clip's tokens, by tokenizer that both datasets have."""
    names = {name for column in b.tokenizers for name in column.cell_columns}
    return {
        column.name: (f"{column.name}_shape", *(n for n in column.cell_columns if n in names))
        for column in a.tokenizers
        if column.name in names
    }


def _digests(unit: UnitRecord) -> list[str]:
    return [part.sha256 for part in unit.parts]


Clips = Iterator[tuple[str, tuple[bytes, ...]]]


def _clips(store: Store, unit: UnitRecord, columns: dict[str, tuple[str, ...]]) -> Clips:
    """Yield each clip's id, and digests of its place and of each tokenizer's cells."""
    groups = [_PLACE, *columns.values()]
    wanted = ["clip_id", *(name for group in groups for name in group)]
    for part in unit.parts:
        with open_parquet(store, part.path) as parquet:
            for rows in unit_rows(parquet, part, wanted):
                for row in rows.to_pylist():
                    yield row["clip_id"], tuple(_digest(row, group) for group in groups)


def _digest(row: dict[str, Any], names: Sequence[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        value = row[name]
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return digest.digest()


def _compare_clips(clips: Clips, others: Clips, result: Difference) -> None:
    known = dict(clips)
    for clip_id, digests in others:
        mine = known.pop(clip_id, None)
        if mine is None:
            result.clips_only["b"].add(clip_id)
            continue
        result.clips_both += 1
        for group, then, now in zip(result.clips_differ.values(), mine, digests, strict=True):
            if then != now:
                group.add(clip_id)
    for clip_id in known:
        result.clips_only["a"].add(clip_id)


def _quarantined(store: Store, unit: UnitRecord) -> dict[str, str]:
    """Return why samples and clips of a unit are in the quarantine."""
    if unit.quarantine is None:
        return {}
    with open_parquet(store, unit.quarantine.path) as parquet:
        rows = parquet.read(columns=["key", "clip_index", "reason"]).to_pylist()
    reasons = {}
    for row in rows:
        sample = f"{unit.unit}/{row['key']}"
        clip = "" if row["clip_index"] is None else f"/{row['clip_index']}"
        reasons[sample + clip] = row["reason"]
    return reasons


def _compare_quarantine(mine: dict[str, str], other: dict[str, str], result: Difference) -> None:
    for name in sorted(mine.keys() | other.keys()):
        then, now = mine.get(name, "-"), other.get(name, "-")
        if then != now:
            result.quarantine.add(f"{name}: {then} | {now}")
