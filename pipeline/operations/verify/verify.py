"""Verifies a dataset: its log, its files, its rows, and some clips against their source.

    dataset.json, manifest, log ─► agree? ─► every file: exists? length? ─► part by part: bytes,
    columns, rows, cells ─► some clips: same tokens from the source again? PSNR?

Read-only. The clip ids of one unit and one row group are in memory at a time.
"""

import random
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.dataset.log.forgotten import read_forgotten
from pipeline.dataset.log.log_records import numbers_in
from pipeline.dataset.log.manifest import (
    Manifest,
    load_checkpoint,
    manifest_path,
    read_checkpoint,
    read_manifest,
    replay_log,
)
from pipeline.dataset.metadata import Dataset, fingerprint_of, read_dataset
from pipeline.dataset.part_writer import is_merged
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.row_sampling import DrawnRow, draw_rows
from pipeline.dataset.tally import Tally
from pipeline.errors import BALANCED, UNBALANCED, DamagedFile, StoreError
from pipeline.formatting import counted, format_bytes, labelled
from pipeline.operations.findings import KINDS, Finding
from pipeline.operations.outcome import Outcome, first_of
from pipeline.operations.unreferenced import unnamed_files
from pipeline.operations.verify.checked_file import MergedFiles
from pipeline.operations.verify.forgotten_check import check_forgotten
from pipeline.operations.verify.unit_check import UnitCheck
from pipeline.storage.store import Store

_SHOWN: Final = 20
"""Maximum number of printed findings of one kind; `to_dict` returns all."""


@dataclass(slots=True, kw_only=True)
class Verification(Outcome):
    """What was checked, and what is wrong."""

    output: str
    units: int = 0
    files: int = 0
    """Number of parts and quarantine tables that the log names."""
    files_read: int = 0
    """Number of these files whose content was checked."""
    rows_checked: int = 0
    """Number of rows of parts that were checked."""
    findings: list[Finding] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    """Paths of files that no record names. They are not a fault; `vacuum` deletes them."""
    orphaned_bytes: int = 0
    forgets: int | None = None
    """Number of forgotten keys and sources that files were searched for; None without search."""
    clips_retokenized: int = 0
    """Number of clips that were decoded from their source and encoded again."""
    psnr_db: dict[str, list[float]] = field(default_factory=dict)
    """PSNR in dB of each clip whose tokens were decoded, by tokenizer."""

    @property
    def exit_code(self) -> int:
        """Exit code: 0 without findings, else 1."""
        return UNBALANCED if self.findings else BALANCED

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, with mean and minimum of the PSNR."""
        psnr = {name: _spread(values) for name, values in self.psnr_db.items()}
        return {**Outcome.to_dict(self), "psnr_db": psnr}

    def lines(self) -> list[str]:
        """Return the lines to print."""
        files = f"{counted(self.files, 'file')} by size, {self.files_read} by content"
        text = f"{counted(self.units, 'unit')} · {files} · {counted(self.rows_checked, 'row')}"
        lines = [labelled("dataset", self.output), labelled("checked", text)]
        if self.orphaned:
            size = f"{counted(len(self.orphaned), 'file')}, {format_bytes(self.orphaned_bytes)}"
            lines.append(labelled("orphaned", f"{size}, not a fault; see vacuum"))
        if self.forgets is not None:
            remains = sum(found.kind in ("forgotten", "remains") for found in self.findings)
            text = f"{counted(self.forgets, 'key and source', 'keys and sources')} searched for"
            lines.append(labelled("forgotten", f"{text} · found in {counted(remains, 'file')}"))
        if self.clips_retokenized:
            text = f"{counted(self.clips_retokenized, 'clip')} from source"
            lines.append(labelled("recomputed", text))
        for name, values in self.psnr_db.items():
            spread = _spread(values)
            text = f"{spread['mean']:.2f} dB on average over {counted(len(values), 'clip')}"
            lines.append(labelled("decoded", f"{name}: {text}, minimum {spread['min']:.2f}"))
        for kind, count in Counter(found.kind for found in self.findings).items():
            lines.append(labelled("WRONG", f"{count} × {kind}: {KINDS[kind]}"))
            shown = [str(found) for found in self.findings if found.kind == kind][:_SHOWN]
            lines += first_of(count, shown)
        faults = counted(len(self.findings), "fault") if self.findings else "valid"
        return [*lines, labelled("verdict", faults)]


def _spread(values: list[float]) -> dict[str, float]:
    mean = round(sum(values) / len(values), 3)
    return {"clips": len(values), "mean": mean, "min": round(min(values), 3)}


def verify(
    store: Store,
    *,
    sample: int | None = None,
    retokenize: int = 0,
    decode: int = 0,
    seed: int = 0,
    forgotten: bool = False,
) -> Verification:
    """Verify a dataset, also while a job adds to it.

    Args:
        store: the dataset's root.
        sample: number of random files whose content is checked; None checks all. The log, and
            existence and length of all files, are checked in either case.
        retokenize: number of random clips that are decoded from their source, encoded with the
            dataset's own settings, and compared bit for bit.
        decode: number of random clips whose tokens are decoded and compared with the source.
        seed: random seed for the sampled files and clips.
        forgotten: whether to read the keys of all files, orphaned ones included, and report those
            that still hold forgotten samples.

    Raises:
        ConfigError: there is no dataset, a newer release wrote it, or its models cannot be loaded.
        StoreError: the store refuses.
    """
    dataset = read_dataset(store)
    result = Verification(output=store.uri)
    manifest = _check_log(store, dataset, result)
    files = list(store.files())
    sizes = {file.path: file.bytes for file in files}
    for found in unnamed_files(files, manifest):
        result.orphaned.append(found.file.path)
        result.orphaned_bytes += found.file.bytes
    every = (*manifest.parts(), *manifest.quarantine_parts())
    named = list(dict.fromkeys(part.path for part in every))
    chosen = set(named)
    if sample is not None and sample < len(named):
        chosen = set(random.Random(seed).sample(named, sample))
    result.files = len(named)
    with closing(MergedFiles(store, dataset)) as merged:
        for unit in manifest.units():
            result.units += 1
            check = UnitCheck(store, dataset, unit, merged)
            _check_unit(unit, check, sizes, chosen, result)
        result.files_read += len(merged.seen)
    if forgotten:
        result.findings += check_forgotten(store, manifest, files)
        result.forgets = len(read_forgotten(store, manifest.forgets).digests)
    if retokenize or decode:
        damaged = {found.where for found in result.findings}
        rows = draw_rows(manifest, max(retokenize, decode), seed, leave_out=damaged)
        _recompute(store, dataset, rows, result, retokenize=retokenize, decode=decode)
    return result


def _check_log(store: Store, dataset: Dataset, result: Verification) -> Manifest:
    """Compare dataset.json, manifest and log; return what counts, as far as it can be read."""

    def wrong(where: str, text: object) -> None:
        result.findings.append(Finding("log", where, str(text)))

    if (identity := fingerprint_of(dataset.identity)) != dataset.fingerprint:
        text = f"fingerprint {dataset.fingerprint}, but its identity gives {identity}"
        wrong("dataset.json", text)
    for number in numbers_in(store, "manifest", ".parquet"):
        try:
            load_checkpoint(store, number)
        except DamagedFile as error:
            wrong(manifest_path(number), error)
    try:
        manifest = read_manifest(store)
    except StoreError as error:
        wrong("log", error)
        return read_checkpoint(store)
    if manifest.fingerprint not in (None, dataset.fingerprint):
        text = f"fingerprint {manifest.fingerprint}, the dataset's is {dataset.fingerprint}"
        wrong("log", text)
    try:
        replayed = replay_log(store, manifest.number)
    except StoreError as error:
        wrong("log", error)
        return manifest
    if (len(replayed), replayed.reopened) != (len(manifest), manifest.reopened):
        both = [
            f"{counted(len(m), 'unit')}, {len(m.reopened)} reopened" for m in (manifest, replayed)
        ]
        wrong("manifest", f"{both[0]}; the log has {both[1]}")
    for known, logged in zip(manifest.units(), replayed.units(), strict=False):
        if known != logged:
            wrong("manifest", f"{known.unit} differs from the log at this place, {logged.unit}")
    return manifest


def _check_unit(
    unit: UnitRecord,
    check: UnitCheck,
    sizes: Mapping[str, int],
    chosen: Container[str],
    result: Verification,
) -> None:
    """Check a unit's counts and files: the length of all, the content of those chosen."""
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
            result.files_read += not is_merged(part.path)
            result.findings += check.quarantine() if part is unit.quarantine else check.part(part)
    if len(result.findings) == before and check.num_rows == unit.counts.clips_written:
        # Only if all parts of the unit were read; statistics still hold forgotten rows.
        result.findings += () if unit.counts.clips_forgotten else check.statistics()
    result.rows_checked += check.num_rows


def _recompute(
    store: Store,
    dataset: Dataset,
    rows: Sequence[DrawnRow],
    result: Verification,
    *,
    retokenize: int,
    decode: int,
) -> None:
    """Take rows back to their source: encode the first `retokenize`, decode the first `decode`."""
    from pipeline.operations.recompute import Recomputer  # it imports torch, for seconds

    needs = {"retokenize": retokenize > 0, "decode": decode > 0}
    with closing(Recomputer(store, dataset, **needs)) as recomputer:
        for found in recomputer.clips(rows):
            if isinstance(found, Finding):
                result.findings.append(found)
                continue
            if found.index < retokenize:
                result.clips_retokenized += 1
                result.findings += recomputer.retokenize(found)
            if found.index < decode:
                for name, value in recomputer.decode(found).psnr_db.items():
                    result.psnr_db.setdefault(name, []).append(value)
