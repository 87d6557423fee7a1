"""Forgets samples: take-down requests by key, by source, or by a table of thousands.

    requests ─► digests in the log ─► keys of all rows ─► records of the rows that no longer count

The digests come first, so that no job brings a key back (`pipeline.dataset.log.forgotten`). Then
the key column of every part is read, and rows of these keys are left out: readers of the log see
them no more. `compact` writes the parts again without them, and `vacuum` deletes the old files.

A command that was killed has left nothing wrong: the same command finds what is still to do.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.forgotten import Forgotten, key_digest, source_digest, unit_keys
from pipeline.dataset.log.manifest import Manifest, read_manifest, write_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.part_reader import open_parquet, rows_of
from pipeline.dataset.part_writer import write_quarantine
from pipeline.dataset.records import Counts, Part, RowsForgotten, RowSpan, UnitRecord
from pipeline.errors import ConfigError, StoreError
from pipeline.formatting import counted, labelled
from pipeline.operations.forget.requests import Requests
from pipeline.operations.outcome import Outcome, first_of
from pipeline.operations.shared_file import SharedFile, shared_files
from pipeline.quarantine import Quarantined
from pipeline.records import to_json
from pipeline.sources.text import escaped_name
from pipeline.storage.store import Store

_FILES_AT_ONCE: Final = 16
_RECORD_BYTES: Final = 1 << 20
"""Size of the units of one record after which the next record begins."""

_ROUNDS: Final = 10
"""Maximum number of times that units are read again because other writers changed them."""

_SHOWN: Final = 5


@dataclass(slots=True, kw_only=True)
class ForgetResult(Outcome):
    """What was forgotten."""

    output: str
    requests: int
    """Number of keys and sources that were named."""
    new: int
    """Number of these that no earlier call forgot."""
    not_found: list[str] = field(default_factory=list)
    """Keys and sources without a sample among those that counted; later runs leave them out."""
    units: int = 0
    """Number of units of which samples were left out."""
    samples: int = 0
    """Number of samples that no longer count, also of quarantined and filtered ones."""
    clips: int = 0
    """Number of rows of parts that no longer count."""
    quarantined: int = 0
    """Number of rows of quarantine tables that were left out."""
    published: bool = False
    """Whether a Delta or Iceberg table was announced, which can still name these rows."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        found = self.requests - len(self.not_found)
        text = f"{counted(self.requests, 'request')}, {self.new} new · {found} found now"
        rows = f"{counted(self.clips, 'row')} of {counted(self.samples, 'sample')}"
        rows += f" in {counted(self.units, 'unit')}"
        if self.quarantined:
            rows += f" · {counted(self.quarantined, 'row')} of quarantine tables"
        lines = [labelled("forgotten", text), labelled("left out", rows)]
        if self.not_found:
            count = len(self.not_found)
            lines.append(
                labelled(
                    "not found",
                    f"{count}: not there, or forgotten before; later runs leave them out",
                )
            )
            lines += first_of(count, self.not_found[:_SHOWN])
        lines.append(labelled("siblings", "a dataset that embed made from this needs its own call"))
        if self.units:
            steps = ["compact", *["publish"] * self.published, "vacuum --delete a day later"]
            lines.append(labelled("next", f"{', '.join(steps)}; then verify --forgotten"))
        return lines


def forget(store: Store, requests: Requests) -> ForgetResult:
    """Forget samples: no reader sees them and no later run takes them in; safe while jobs run.

    Args:
        store: the dataset's root; put-if-absent is needed.
        requests: keys and sources to forget.

    Raises:
        ConfigError: there is no dataset, a source names rows of a list that are not a unit's, or
            the dataset does not know its sources.
        StoreError: log or parts are damaged, or the store refuses. The same call continues.
    """
    dataset = read_dataset(store)
    if requests.sources and "embedders" in dataset.identity:
        raise ConfigError(
            f"--source {min(requests.sources)}: {store.uri} was made by embed, so it does not know"
            " the sources of its samples; name them with --key, or in a table of key and unit"
        )
    store.require_put_if_absent()
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="forget")
    _require_whole_ranges(store, requests)
    new = requests.named.keys() - log.committed.forgotten.digests
    log.forget(new)
    result = ForgetResult(output=store.uri, requests=len(requests.named), new=len(new))
    wanted = Forgotten(set(requests.named))
    found: set[str] = set()
    for _ in range(_ROUNDS):
        manifest = read_manifest(store)  # after the digests: later units do not hold them
        result.published = bool(manifest.publications)
        files = _keys_of_files(store, manifest, wanted, log.committed.forgotten)
        wanted.digests.update(files)
        log.forget(files.keys() - log.committed.forgotten.digests)
        left = 0
        for group in _groups(_trimmed_units(store, manifest, requests, wanted)):
            known = {unit.now.unit: manifest.number for unit in group}
            done = set(log.trim([unit.now for unit in group], known))
            left += len(group) - len(done)
            for unit in group:
                if unit.now.unit in done:
                    _count(result, unit)
                    found |= {files.get(digest, digest) for digest in unit.digests}
        if not left:
            break
    else:
        raise StoreError(
            f"{store.uri}: other writers keep changing {left} units; run the command again"
        )
    result.not_found = sorted(requests.named[d] for d in requests.named.keys() - found)
    write_manifest(store)
    return result


@dataclass(frozen=True, slots=True)
class _Trim:
    """A unit of which samples are forgotten."""

    before: UnitRecord
    now: RowsForgotten
    digests: frozenset[str]
    """Digests of the requests that its samples match."""


def _count(result: ForgetResult, unit: _Trim) -> None:
    before, now = unit.before.counts, unit.now.counts
    result.units += 1
    result.samples += now.samples_forgotten - before.samples_forgotten
    result.clips += before.clips_written - now.clips_written
    result.quarantined += sum(unit.before.reasons.values()) - sum(unit.now.reasons.values())


def _groups(units: Iterable[_Trim]) -> Iterator[list[_Trim]]:
    """Yield the units of one record."""
    group: list[_Trim] = []
    size = 0
    for unit in units:
        group.append(unit)
        size += len(to_json(unit.now))
        if size >= _RECORD_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _require_whole_ranges(store: Store, requests: Requests) -> None:
    """Refuse rows of a list that are not those of a unit: which keys they are is not known."""
    if requests.ranges:
        known = {source for unit in read_manifest(store).units() for source in unit.sources}
        for name in sorted(requests.ranges - known):
            raise ConfigError(
                f"--source {name}: not the range of rows of a committed unit; name the samples"
                " with --key"
            )


def _keys_of_files(
    store: Store, manifest: Manifest, wanted: Forgotten, known: Forgotten
) -> dict[str, str]:
    """Return the digests of the keys of forgotten files in runs of files, with their sources'.

    Raises:
        ConfigError: the key of a file cannot be told from its URI.
    """
    found = {}
    for unit in manifest.units():
        gone = [source for source in unit.sources if wanted.has_source(source)]
        if len(unit.sources) > 1 and gone:
            start = _start_of_keys(unit, set(unit_keys(store, unit.files)), known)
            for source in gone:
                key = escaped_name(source)[start:]
                found[key_digest(key, unit.unit)] = source_digest(source)
    return found


def _start_of_keys(unit: UnitRecord, keys: Collection[str], known: Forgotten) -> int:
    """Return the length of the folder that the keys of a run of files leave out of their URIs."""
    names = [escaped_name(source) for source in unit.sources]
    for start in (n + 1 for n, letter in enumerate(names[0]) if letter == "/"):
        rest = [name[start:] for name in names if name.startswith(names[0][:start])]
        if len(rest) == len(names) and all(k in keys or known.has(unit.unit, k) for k in rest):
            return start
    raise ConfigError(
        f"--source: the URIs of the files of unit {unit.unit} do not tell their keys; name the"
        " samples with --key"
    )


def _trimmed_units(
    store: Store, manifest: Manifest, requests: Requests, wanted: Forgotten
) -> Iterator[_Trim]:
    """Yield the units that hold a forgotten sample; reads the keys of all rows."""
    units = {
        unit.unit: replace(unit, statistics={})  # they would take some GB at a million units
        for unit in manifest.units()
        if requests.everywhere
        or unit.unit in requests.units
        or any(map(wanted.has_source, unit.sources))
    }
    files = [file for file in shared_files(manifest) if not units.keys().isdisjoint(file.units)]
    hits: dict[str, _Hits] = {}
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        for found in pool.map(partial(_hits_in_file, store, units, wanted), files):
            for name, part, now, keys in found:
                hit = hits.setdefault(name, _Hits())
                hit.parts[part] = now
                hit.clips += part.rows - (now.rows if now else 0)
                hit.keys |= keys
        tables = [unit for unit in units.values() if unit.quarantine is not None]
        rows = pool.map(partial(_quarantined, store, wanted), tables)
        for unit, (gone, kept) in zip(tables, rows, strict=True):
            if gone:
                hit = hits.setdefault(unit.unit, _Hits())
                hit.gone, hit.kept = gone, kept
    for name, hit in hits.items():
        yield _trim(store, units[name], hit, wanted)


@dataclass(slots=True)
class _Hits:
    """What of a unit is forgotten."""

    parts: dict[Part, Part | None] = field(default_factory=dict)
    """Part → the part without the forgotten rows; None if no row is left."""
    clips: int = 0
    keys: set[str] = field(default_factory=set)
    gone: list[Quarantined] = field(default_factory=list)
    """Forgotten rows of the quarantine table."""
    kept: list[Quarantined] = field(default_factory=list)
    """The other rows of the quarantine table, if any row is forgotten."""


def _hits_in_file(
    store: Store, units: Mapping[str, UnitRecord], wanted: Forgotten, file: SharedFile
) -> list[tuple[str, Part, Part | None, set[str]]]:
    """Return the parts in a file that hold forgotten rows: unit, part, part without, keys."""
    with open_parquet(store, file.part.path, num_bytes=file.part.bytes) as parquet:
        num_rows = parquet.metadata.num_rows
        column = parquet.read(columns=["key"])["key"].combine_chunks()
    if len(column) != num_rows:
        raise StoreError(
            f"{store.locate(file.part.path)}: keys are missing; run `python -m pipeline verify`"
        )
    found = []
    for name, part in file.shares:
        if name not in units:
            continue
        keys = rows_of(part, column).dictionary_encode()
        known = keys.dictionary.to_pylist()
        gone = wanted.keys_of(name, units[name].sources, known)
        if gone:
            lost = np.isin(keys.indices.to_numpy(), [n for n, k in enumerate(known) if k in gone])
            found.append((name, part, without_rows(part, lost, num_rows), gone))
    return found


def without_rows(
    part: Part, lost: "np.ndarray[tuple[int], np.dtype[np.bool_]]", of_rows: int
) -> Part | None:
    """Return a part without some of its rows; None if no row is left.

    Args:
        part: the part.
        lost: whether each of its rows is left out.
        of_rows: number of rows of the whole file.
    """
    rows = np.concatenate([np.arange(first, stop) for first, stop in part.spans])
    kept = rows[~lost]
    if not len(kept):
        return None
    cuts = np.flatnonzero(np.diff(kept) > 1)
    gaps = zip((kept[cuts] + 1).tolist(), kept[cuts + 1].tolist(), strict=True)
    place = RowSpan(first_row=int(kept[0]), of_rows=of_rows, left_out=tuple(gaps))
    return replace(part, rows=len(kept), place=place)


def _quarantined(
    store: Store, wanted: Forgotten, unit: UnitRecord
) -> tuple[list[Quarantined], list[Quarantined]]:
    """Return the rows of a unit's quarantine table that are forgotten, and the others."""
    table = unit.quarantine
    assert table is not None
    with open_parquet(store, table.path, num_bytes=table.bytes) as parquet:
        rows = [Quarantined(**row) for row in parquet.read().to_pylist()]
    gone = wanted.keys_of(unit.unit, unit.sources, {row.key for row in rows})
    return [row for row in rows if row.key in gone], [row for row in rows if row.key not in gone]


def _trim(store: Store, unit: UnitRecord, hit: _Hits, wanted: Forgotten) -> _Trim:
    """Return a unit without its forgotten samples; writes its quarantine table again."""
    moved: Counter[str] = Counter(clips_written=hit.clips)
    with_clips = set(hit.keys)
    for row in hit.gone:
        if row.clip_index is not None:
            moved["clips_quarantined"] += 1
            with_clips.add(row.key)
        else:
            moved["samples_filtered" if row.is_filtered else "samples_quarantined"] += 1
    moved["samples_with_clips"] = len(with_clips)
    # A number of a record that does not add up may be too small.
    moved &= Counter(asdict(unit.counts))
    counts = Counter(asdict(unit.counts)) - moved
    for name, count in moved.items():
        counts[f"{name.partition('_')[0]}_forgotten"] += count
    parts = (hit.parts.get(part, part) for part in unit.parts)
    now = RowsForgotten(
        unit=unit.unit,
        parts=tuple(part for part in parts if part is not None),
        quarantine=write_quarantine(store, unit.unit, hit.kept) if hit.gone else unit.quarantine,
        counts=Counts(**counts),
        reasons=dict(Counter(unit.reasons) - Counter(row.reason for row in hit.gone)),
    )
    keys = hit.keys | {row.key for row in hit.gone}
    digests = {digest for key in keys for digest in (key_digest(key), key_digest(key, unit.unit))}
    digests |= {source_digest(source) for source in unit.sources}
    digests |= {source_digest(source.partition("#rows=")[0]) for source in unit.sources}
    return _Trim(unit, now, frozenset(digests & wanted.digests))
