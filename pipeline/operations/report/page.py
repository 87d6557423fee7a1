"""A page about a dataset: what it holds, what was lost and why, its files, and the runs it took.

Counts come from the log, times from the summaries that runs left in `reports/`. A run that was
killed left none.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from pipeline.dataset.records import Part
from pipeline.errors import StoreError
from pipeline.formatting import format_bytes, format_duration
from pipeline.operations.status import Status
from pipeline.operations.status import status as read_status
from pipeline.quarantine import REASONS
from pipeline.storage.store import Store

_COUNT_ROWS: Final = (
    ("samples", "samples_read", "samples_with_clips", "samples_filtered", "samples_quarantined"),
    ("clips", "clips_seen", "clips_written", "clips_filtered", "clips_quarantined"),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the parts of one bucket, or of the quarantine tables."""

    files: int
    rows: int
    bytes: int
    smallest: int
    """Bytes, as the next two."""
    middle: int
    largest: int

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "Sizes":
        """Return the sizes of some files, at least one; units share a merged one."""
        sizes = list({part.path: part.bytes for part in parts}.values())
        return cls(
            files=len(sizes),
            rows=sum(part.rows for part in parts),
            bytes=sum(sizes),
            smallest=min(sizes),
            middle=int(median(sizes)),
            largest=max(sizes),
        )


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of text; without rows it is left out."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """Yield it as Markdown."""
        if self.rows:
            yield f"| {' | '.join(self.heads)} |"
            yield f"|{' --- |' * len(self.heads)}"
            for row in self.rows:
                yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


Block = str | ReportTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the page says."""

    status: Status
    sizes: dict[str, Sizes] = field(default_factory=dict)
    """By bucket; the quarantine's under `quarantine`."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """What `summary.json` of each run says, oldest first."""

    @property
    def exit_code(self) -> int:
        """0 when every sample and clip is accounted for."""
        return self.status.exit_code

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        files = {name: asdict(sizes) for name, sizes in self.sizes.items()}
        return {**self.status.to_dict(), "files": files, "runs": self.runs}

    def lines(self) -> list[str]:
        """Return the page as Markdown."""
        lines = [f"# {self.status.output}", "", *_markdown(self.head())]
        for title, blocks in self.sections().items():
            lines += ["", f"## {title}", "", *(_markdown(blocks) or ["None."])]
        return lines

    def sections(self) -> dict[str, list[Block]]:
        """Return what stands below each heading."""
        return {
            "Counts": list(self._counts()),
            "Quarantine": list(self._quarantine()),
            "Quality": list(self._quality()),
            "Files": list(self._files()),
            "Work": list(self._work()),
            "Runs": list(self._runs()),
        }

    def head(self) -> Iterator[Block]:
        """Yield what stands above all sections."""
        dataset, manifest = self.status.dataset, self.status.manifest
        rate = dataset.identity["clip"]["fps"]
        fps = "every frame" if rate is None else f"{rate:g} frames per second"
        shapes = [f"{bucket.text} pixels" for bucket in dataset.buckets]
        yield (
            f"Clips of {', or '.join(shapes)}, {fps}."
            f" Fingerprint `{dataset.fingerprint}`, log at record {manifest.number}."
        )
        yield ""
        rows = [(c.name, c.model, c.kind, c.dtype) for c in dataset.tokenizers]
        yield ReportTable(("column", "model", "kind", "dtype"), rows)
        for problem in self.status.tally.problems:
            yield f"\n**Does not add up:** {problem}"
        if manifest.reopened:
            yield f"\n{len(manifest.reopened)} units wait to be done again by the next run."

    def _counts(self) -> Iterator[Block]:
        counts = self.status.tally.counts
        yield f"{self.status.tally.units} units.\n"
        rows = []
        for what, *names in _COUNT_ROWS:
            came, *went = (getattr(counts, name) for name in names)
            rows.append((what, str(came), *(f"{n} ({percentage(n, came)})" for n in went)))
        yield ReportTable(("", "came in", "kept", "filtered", "quarantined"), rows)

    def _quarantine(self) -> Iterator[Block]:
        rows = [
            (reason, str(count), REASONS.get(reason, "?"))
            for reason, count in self.status.tally.reasons.most_common()
        ]
        yield ReportTable(("reason", "samples and clips", "meaning"), rows)

    def _quality(self) -> Iterator[Block]:
        psnr = self.status.tally.psnr
        rows = [
            (
                name,
                str(sums.clips),
                "-" if sums.mean_db is None else f"{sums.mean_db:.2f} dB",
                str(sums.failed),
            )
            for name, sums in psnr.items()
        ]
        yield ReportTable(
            ("", "clips decoded back", "PSNR on average", "could not be decoded"), rows
        )
        counts = {name: sums.counts for name, sums in psnr.items()}
        decibels = sorted({value for count in counts.values() for value in count})
        if decibels:
            yield ""
        yield ReportTable(
            ("dB, rounded down", *(f"clips of {name}" for name in counts)),
            [(str(db), *(str(count.get(db, 0)) for count in counts.values())) for db in decibels],
        )
        worst = [
            (name, f"{value / 1000:.2f} dB", clip_id)
            for name, sums in psnr.items()
            for value, clip_id in sums.worst
        ]
        if worst:
            yield ""
        yield ReportTable(("", "PSNR", "the clips that came back worst"), worst)

    def _files(self) -> Iterator[Block]:
        rows = [
            (
                name,
                str(sizes.files),
                str(sizes.rows),
                *map(format_bytes, (sizes.bytes, sizes.smallest, sizes.middle, sizes.largest)),
                format_bytes(sizes.bytes // sizes.rows) if sizes.rows else "",
            )
            for name, sizes in self.sizes.items()
        ]
        heads = ("", "files", "rows", "bytes", "smallest", "median", "largest", "per row")
        yield ReportTable(heads, rows)

    def _work(self) -> Iterator[Block]:
        clips = self.status.tally.counts.clips_written
        rows = [
            (stage, format_duration(seconds), f"{clips / seconds:.1f}")
            for stage, seconds in sorted(self.status.tally.timings.items())
            if seconds > 0
        ]
        yield ReportTable(("stage", "time in all processes", "clips/s in one process"), rows)

    def _runs(self) -> Iterator[Block]:
        yield ReportTable(
            ("run", "time", "units", "clips", "clips/s", "failed", "exit code"),
            [_run_row(run) for run in self.runs],
        )


def _run_row(run: Mapping[str, Any]) -> tuple[str, ...]:
    clips, seconds = run["this_run"]["clips_written"], run["seconds"]
    return (
        run["run"],
        format_duration(seconds),
        str(run["units"]["done"]),
        str(clips),
        f"{clips / seconds:.1f}" if seconds else "",
        str(len(run["units"]["failed"])),
        str(run["exit_code"]),
    )


def _markdown(blocks: Iterable[Block]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        lines += [block] if isinstance(block, str) else block.lines()
    return lines


def percentage(part: int, whole: int) -> str:
    """Return `12.3 %`, of nothing `-`."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def report(store: Store) -> Page:
    """Return the page about a dataset, also while a job runs.

    Raises:
        ConfigError: there is no dataset.
        StoreError: the log or a run's summary is damaged.
    """
    status = read_status(store)
    manifest = status.manifest
    groups: dict[str, list[Part]] = {}
    for part in manifest.parts():
        groups.setdefault(part.bucket, []).append(part)
    if quarantine := manifest.quarantine_parts():
        groups["quarantine"] = quarantine
    return Page(
        status=status,
        sizes={name: Sizes.of(parts) for name, parts in groups.items()},
        runs=list(_summaries(store)),
    )


def _summaries(store: Store) -> Iterator[dict[str, Any]]:
    """Yield what runs said at their end; a run's name begins with its time."""
    for path in store.list("reports"):
        if path.endswith("/summary.json"):
            try:
                summary: dict[str, Any] = json.loads(store.read(path))
            except ValueError as error:
                where = store.locate(path)
                raise StoreError(f"{where}: not a summary: {error}; delete it") from error
            yield summary
