"""Verification: does a dataset hold what its log says, and is each of its rows what it should be?

    dataset.json, manifest, log ─► agree? ─► every file: there? length? ─► part by part: bytes,
    columns, rows, cells ─► some clips: the same tokens from the source again? PSNR?

Read-only. One unit's clip ids and one row group are in memory at a time.
"""

import random
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import pyarrow as pa

from pipeline.dataset.manifest import Manifest, read_checkpoint, read_manifest, replay_log
from pipeline.dataset.metadata import Dataset, fingerprint_of, read_dataset
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.row_sampling import DrawnRow, draw_rows, read_row
from pipeline.dataset.tally import Tally
from pipeline.dataset.unreferenced import unnamed_files
from pipeline.errors import StoreError
from pipeline.formatting import format_bytes
from pipeline.operations.findings import KINDS, Finding
from pipeline.operations.recompute import Again, Row
from pipeline.operations.verify.checked_file import MergedFiles
from pipeline.operations.verify.unit_check import UnitCheck
from pipeline.records import Sample
from pipeline.storage.store import Store

_SHOWN: Final = 20
"""Findings of one kind that a person is shown; programs get all."""


@dataclass(slots=True, kw_only=True)
class Verification:
    """What was looked at, and what is wrong."""

    output: str
    findings: list[Finding] = field(default_factory=list)
    units: int = 0
    files: int = 0
    """Parts and quarantine tables that the log names."""
    read: int = 0
    """Of these, those whose bytes and rows were checked."""
    rows: int = 0
    """Rows of parts that were checked."""
    unnamed: list[str] = field(default_factory=list)
    """Files that no record names: no fault, see `pipeline.operations.vacuum`."""
    unnamed_bytes: int = 0
    retokenized: int = 0
    """Clips that were made again from their source."""
    psnr: dict[str, list[float]] = field(default_factory=dict)
    """Tokenizer → PSNR of each clip that was decoded, in dB."""

    @property
    def exit_code(self) -> int:
        """0 when nothing is wrong."""
        return 1 if self.findings else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": self.output,
            "units": self.units,
            "files": self.files,
            "files_read": self.read,
            "rows_checked": self.rows,
            "findings": [
                {"kind": found.kind, "where": found.where, "detail": found.detail}
                for found in self.findings
            ],
            "unnamed": self.unnamed,
            "clips_retokenized": self.retokenized,
            "psnr_db": {name: _spread(values) for name, values in self.psnr.items() if values},
        }

    def lines(self) -> list[str]:
        """Return the same for a person."""
        files = f"{self.files} files by size, {self.read} by content"
        lines = [
            f"dataset     {self.output}",
            f"checked     {self.units} units · {files} · {self.rows} rows",
        ]
        if self.unnamed:
            size = format_bytes(self.unnamed_bytes)
            lines.append(f"unnamed     {len(self.unnamed)} files, {size}, no fault; see vacuum")
        if self.retokenized:
            lines.append(f"made again  {self.retokenized} clips from their source")
        for name, values in self.psnr.items():
            if values:
                spread = _spread(values)
                lines.append(
                    f"decoded     {name}: {spread['mean']:.2f} dB over {len(values)} clips,"
                    f" {spread['min']:.2f} at least"
                )
        kinds = Counter(found.kind for found in self.findings)
        for kind, count in kinds.items():
            lines.append(f"WRONG       {count} × {kind}: {KINDS[kind]}")
            shown = [found for found in self.findings if found.kind == kind][:_SHOWN]
            lines += [f"  {found.where}: {found.detail}" for found in shown]
            if count > _SHOWN:
                lines.append(f"  and {count - _SHOWN} more; --json lists all")
        lines.append(f"verdict     {len(self.findings)} faults" if kinds else "verdict     sound")
        return lines


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "clips": len(values),
        "mean": round(sum(values) / len(values), 3),
        "min": round(min(values), 3),
    }


def verify(
    store: Store,
    *,
    sample: int | None = None,
    retokenize: int = 0,
    decode: int = 0,
    seed: int = 0,
) -> Verification:
    """Check a dataset, also while a job adds to it.

    Args:
        store: the dataset's root.
        sample: look into so many files only, drawn at random; None looks into all. Existence,
            length and the log are checked for all in either case.
        retokenize: so many random clips are decoded and encoded again with the dataset's own
            settings, and compared bit for bit.
        decode: the tokens of so many random clips are decoded, and compared with the source.
        seed: of what is drawn.

    Raises:
        ConfigError: there is no dataset, a newer release wrote it, or its models are not here.
        StoreError: the store refuses.
    """
    dataset = read_dataset(store)
    result = Verification(output=store.uri)
    manifest = _check_log(store, dataset, result)
    files = list(store.files())
    sizes = {file.path: file.bytes for file in files}
    for found in unnamed_files(files, manifest):
        result.unnamed.append(found.file.path)
        result.unnamed_bytes += found.file.bytes
    every = (*manifest.parts(), *manifest.quarantine_parts())
    named = list(dict.fromkeys(part.path for part in every))
    chosen = set(named)
    if sample is not None and sample < len(named):
        chosen = set(random.Random(seed).sample(named, sample))
    result.files = len(named)
    with MergedFiles(store, dataset) as merged:
        for unit in manifest.units():
            result.units += 1
            check = UnitCheck(store, dataset, unit, merged)
            _check_unit(unit, check, sizes, chosen, result)
        result.read += len(merged.seen)
    if retokenize or decode:
        damaged = {found.where for found in result.findings}
        rows = draw_rows(manifest, max(retokenize, decode), seed, leave_out=damaged)
        _check_again(store, dataset, rows, result, retokenize=retokenize, decode=decode)
    return result


def _check_log(store: Store, dataset: Dataset, result: Verification) -> Manifest:
    """Compare dataset.json, the manifest and the log; return what counts, as far as it is known."""

    def wrong(where: str, text: object) -> None:
        result.findings.append(Finding("log", where, str(text)))

    if (identity := fingerprint_of(dataset.identity)) != dataset.fingerprint:
        wrong("dataset.json", f"fingerprint {dataset.fingerprint}, its identity's is {identity}")
    try:
        manifest = read_manifest(store)
    except StoreError as error:
        wrong("log", error)
        try:
            return read_checkpoint(store)
        except StoreError:
            return replay_log(store)
    if manifest.fingerprint not in (None, dataset.fingerprint):
        wrong("log", f"fingerprint {manifest.fingerprint}, the dataset's is {dataset.fingerprint}")
    try:
        replayed = replay_log(store, manifest.number)
    except StoreError as error:
        wrong("log", error)
        return manifest
    if (len(replayed), replayed.reopened) != (len(manifest), manifest.reopened):
        both = [f"{len(m)} units, {len(m.reopened)} reopened" for m in (manifest, replayed)]
        wrong("manifest", f"{both[0]}, the log has {both[1]}")
    for known, logged in zip(manifest.units(), replayed.units(), strict=False):
        if known != logged:
            wrong("manifest", f"{known.unit} is not what the log has in its place, {logged.unit}")
    return manifest


def _check_unit(
    unit: UnitRecord,
    check: UnitCheck,
    sizes: Mapping[str, int],
    chosen: Container[str],
    result: Verification,
) -> None:
    """Check a unit's counts, and its files: all by length, those chosen by content."""
    tally, before = Tally(), len(result.findings)
    tally.add(unit)
    result.findings += [Finding("counts", "log", problem) for problem in tally.problems]
    for part in (*unit.parts, *([unit.quarantine] if unit.quarantine else [])):
        length = sizes.get(part.path)
        if length is None:
            result.findings.append(Finding("missing", part.path, f"unit {unit.unit} names it"))
        elif length != part.bytes:
            text = f"{length} bytes, recorded {part.bytes}"
            result.findings.append(Finding("size", part.path, text))
        elif part.path in chosen:
            result.read += part.place is None
            result.findings += check.quarantine() if part is unit.quarantine else check.part(part)
    if len(result.findings) == before and check.num_rows == unit.counts.clips_written:
        result.findings += check.statistics()  # of all its rows: no part was left out
    result.rows += check.num_rows


def _check_again(
    store: Store,
    dataset: Dataset,
    rows: list[DrawnRow],
    result: Verification,
    *,
    retokenize: int,
    decode: int,
) -> None:
    """Take drawn rows back to their source: the first `retokenize` and the first `decode`."""
    ranks: dict[str, int] = {}
    samples: dict[tuple[str, str], tuple[UnitRecord, list[Row]]] = {}
    for rank, drawn in enumerate(rows):
        try:
            row: Row = read_row(store, drawn)
        except StoreError:
            raise
        except (pa.ArrowException, OSError) as error:
            result.findings.append(Finding("unreadable", drawn.part.path, str(error)))
            continue
        ranks[row["clip_id"]] = rank
        samples.setdefault((row["unit"], row["key"]), (drawn.unit, []))[1].append(row)
    with Again(dataset, retokenize=retokenize > 0, decode=decode > 0) as again:
        for found in chain.from_iterable(again.clips(*sample) for sample in samples.values()):
            if isinstance(found, Finding):
                result.findings.append(found)
                continue
            row, clip, frames = found
            if ranks[clip.clip_id] < retokenize:
                result.retokenized += 1
                result.findings += again.retokenize(row, clip, frames)
            if ranks[clip.clip_id] < decode:
                assert not isinstance(frames, Sample)  # `Again` refuses
                for name, value in again.psnr(row, frames).items():
                    result.psnr.setdefault(name, []).append(value)
