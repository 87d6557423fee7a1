"""The page about a dataset: what it holds, what was quarantined and why, its files, and its runs.

Counts come from the log, run times from the summaries in `reports/`. A run that was killed left no
summary.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from pipeline.dataset.records import Part
from pipeline.errors import StoreError
from pipeline.formatting import counted, format_bytes, format_duration
from pipeline.operations.outcome import Outcome, plain
from pipeline.operations.report.blocks import Block, Definitions, Table, markdown
from pipeline.operations.stats import clip_facts
from pipeline.operations.status import Status
from pipeline.operations.status import status as read_status
from pipeline.quarantine import DROPPED, FILTERED, REASONS
from pipeline.storage.store import Store

_COUNT_ROWS: Final = (
    ("samples", "samples_read", "samples_with_clips", "samples_filtered", "samples_quarantined"),
    ("clips", "clips_seen", "clips_written", "clips_filtered", "clips_quarantined"),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the parts of one bucket, or of the quarantine tables."""

    files: int
    rows: int
    bytes: int
    smallest: int
    """Bytes of the smallest file."""
    middle: int
    """Median of the files' bytes."""
    largest: int
    """Bytes of the largest file."""

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "Sizes":
        """Return the sizes of at least one file; a merged part counts once."""
        sizes = list({part.path: part.bytes for part in parts}.values())
        rows, middle = sum(part.rows for part in parts), int(median(sizes))
        return cls(len(sizes), rows, sum(sizes), min(sizes), middle, max(sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Outcome):
    """What the page says."""

    status: Status
    sizes: dict[str, Sizes]
    """Sizes of the parts by bucket; those of the quarantine under `quarantine`."""
    runs: list[dict[str, Any]]
    """Contents of each run's `summary.json`, oldest first."""

    @property
    def exit_code(self) -> int:
        """Exit code: 0 when every sample and clip is accounted for, else 1."""
        return self.status.exit_code

    def to_dict(self) -> dict[str, Any]:
        """Return the counts of `status`, the sizes of files, and the runs."""
        return {**self.status.to_dict(), "files": plain(self.sizes), "runs": self.runs}

    def lines(self) -> list[str]:
        """Return the page as Markdown."""
        lines = [f"# {self.status.output}", *markdown(self.head())]
        for title, blocks in self.sections().items():
            lines += ["", f"## {title}", *markdown(blocks or ["None."])]
        return lines

    def sections(self) -> dict[str, list[Block]]:
        """Return the blocks below each heading; empty tables are left out."""
        sections = {
            "Counts": self._counts(),
            "Filtered": self._lost("samples", self.status.tally.filtered, FILTERED),
            "Dropped clips": self._dropped(),
            "Quarantine": self._lost("samples and clips", self.status.tally.reasons, REASONS),
            "Quality": self._quality(),
            "Files": self._files(),
            "Work": self._work(),
            "Runs": self._runs(),
        }
        return {
            title: [b for b in blocks if not (isinstance(b, Table) and not b.rows)]
            for title, blocks in sections.items()
        }

    def head(self) -> Iterator[Block]:
        """Yield the blocks above all sections: the most important numbers first."""
        dataset, manifest, tally = self.status.dataset, self.status.manifest, self.status.tally
        counts = tally.counts
        lost = counts.samples_quarantined + counts.clips_quarantined
        facts = [
            ("clips", _grouped(counts.clips_written)),
            ("of source", format_duration(tally.seconds_kept)),
            (
                f"of {format_duration(tally.seconds_decoded)} decoded kept",
                percentage(tally.seconds_kept, tally.seconds_decoded),
            ),
            (
                f"of {_grouped(counts.samples_read)} samples kept",
                percentage(counts.samples_with_clips, counts.samples_read),
            ),
            ("samples and clips quarantined", _grouped(lost)),
            ("in parts", format_bytes(tally.bytes)),
        ]
        yield Definitions(facts, large=True)
        rates = dataset.identity["clip"]["fps"]
        fps = ", or ".join(
            "every frame" if rate is None else f"{rate:g} frames per second"
            for rate in (rates if isinstance(rates, list) else [rates])
        )
        shapes = ", or ".join(f"{bucket.text} pixels" for bucket in dataset.buckets)
        made_by = f"Fingerprint {dataset.fingerprint}, log at record {manifest.number}."
        yield f"Clips of {shapes}, {fps}. {made_by}"
        rows = [
            (c.name, c.model, f"{c.kind} ({c.input_text})" if c.input_text else c.kind, c.dtype)
            for c in dataset.tokenizers
        ]
        yield Table("llll", ("column", "model", "kind", "dtype"), rows)
        yield from (f"Does not add up: {problem}" for problem in tally.problems)
        if counts.samples_forgotten:
            clips = counted(counts.clips_forgotten, "clip")
            yield f"{counted(counts.samples_forgotten, 'sample')} forgotten, {clips}."
        if manifest.reopened:
            yield f"{counted(len(manifest.reopened), 'unit')} reopened for the next run."

    def _counts(self) -> Iterator[Block]:
        counts = self.status.tally.counts
        yield f"{counted(self.status.tally.units, 'unit')}."
        rows = []
        for what, *names in _COUNT_ROWS:
            came, *went = (getattr(counts, name) for name in names)
            rows.append((what, came, *(f"{n} ({percentage(n, came)})" for n in went)))
        yield Table("lrrrr", ("", "came in", "kept", "filtered", "quarantined"), rows)
        yield Definitions(list(clip_facts(self.status.tally.total)))

    def _dropped(self) -> Iterator[Block]:
        rows = [
            (rule, count, DROPPED.get(rule) or FILTERED.get(rule, "a rule of clip.filter"))
            for rule, count in self.status.tally.dropped.most_common()
        ]
        yield Table("lrl", ("rule", "clips", "meaning"), rows)

    def _lost(
        self, what: str, reasons: Counter[str], meanings: Mapping[str, str]
    ) -> Iterator[Block]:
        rows = [(r, count, meanings.get(r, "?")) for r, count in reasons.most_common()]
        yield Table("lrl", ("reason", what, "meaning"), rows)
        named = [(r, *e) for r in reasons for e in self.status.examples.get(r, ())]
        yield Table("lll", ("reason", "example", "detail"), named)

    def _quality(self) -> Iterator[Block]:
        psnr = self.status.tally.total.psnr
        rows = [
            (name, sums.clips, "-" if (db := sums.mean_db) is None else f"{db:.2f} dB", sums.failed)
            for name, sums in psnr.items()
        ]
        heads = ("", "clips decoded back", "mean PSNR", "decoding failed")
        yield Table("lrrr", heads, rows)
        counts = {name: sums.counts for name, sums in psnr.items()}
        decibels = sorted({value for count in counts.values() for value in count})
        yield Table(
            "r" * (1 + len(counts)),
            ("dB, rounded down", *(f"clips of {name}" for name in counts)),
            [(db, *(count.get(db, 0) for count in counts.values())) for db in decibels],
        )
        worst = [
            (name, f"{value / 1000:.2f} dB", clip)
            for name, sums in psnr.items()
            for value, clip in sums.worst
        ]
        yield Table("lrl", ("", "PSNR", "clips with the lowest PSNR"), worst)

    def _files(self) -> Iterator[Block]:
        rows = [
            (
                *(name, sizes.files, sizes.rows),
                *map(format_bytes, (sizes.bytes, sizes.smallest, sizes.middle, sizes.largest)),
                format_bytes(sizes.bytes // sizes.rows) if sizes.rows else "",
            )
            for name, sizes in self.sizes.items()
        ]
        heads = ("", "files", "rows", "bytes", "smallest", "median", "largest", "per row")
        yield Table("lrrrrrrr", heads, rows)

    def _work(self) -> Iterator[Block]:
        clips = self.status.tally.counts.clips_written
        rows = [
            (stage, format_duration(seconds), f"{clips / seconds:.1f}")
            for stage, seconds in sorted(self.status.tally.timings.items())
            if seconds > 0
        ]
        yield Table("lrr", ("stage", "time in all processes", "clips/s in one process"), rows)

    def _runs(self) -> Iterator[Block]:
        heads = ("run", "time", "units", "clips", "clips/s", "failed", "exit code")
        yield Table("lrrrrrr", heads, [_run_row(run) for run in self.runs])


def _run_row(run: Mapping[str, Any]) -> tuple[object, ...]:
    clips, seconds, units = run["this_run"]["clips_written"], run["seconds"], run["units"]
    rate = f"{clips / seconds:.1f}" if seconds else ""
    work = run["run"], format_duration(seconds), units["done"], clips, rate
    return *work, len(units["failed"]), run["exit_code"]


def _grouped(number: int) -> str:
    """Return `12 345 678`, with narrow no-break spaces."""
    return f"{number:,}".replace(",", "\u202f")


def percentage(part: float, whole: float) -> str:
    """Return `12.3 %`, or `-` if the whole is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def report(store: Store) -> Page:
    """Return the page about a dataset, also while a job runs.

    Raises:
        ConfigError: there is no dataset.
        StoreError: the log or a run's summary is damaged.
    """
    status = read_status(store)
    groups: dict[str, list[Part]] = {}
    for part in status.manifest.parts():
        groups.setdefault(part.bucket, []).append(part)
    if quarantine := status.manifest.quarantine_parts():
        groups["quarantine"] = quarantine
    return Page(
        status=status,
        sizes={name: Sizes.of(parts) for name, parts in groups.items()},
        runs=list(_summaries(store)),
    )


def _summaries(store: Store) -> Iterator[dict[str, Any]]:
    """Yield the summaries of runs; the name of a run begins with its time."""
    for path in store.list("reports"):
        if path.endswith("/summary.json"):
            try:
                summary: dict[str, Any] = json.loads(store.read(path))
            except ValueError as error:
                where = store.locate(path)
                raise StoreError(f"{where}: not a summary of a run: {error}; delete it") from error
            yield summary
