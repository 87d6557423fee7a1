"""The statistics of a whole dataset: the sum of what its units recorded when they were committed.

All are sums of integers, so they do not depend on the order of commits. Only the use of whole
codebooks needs the parts read: a unit records how often each channel took each level, which is
small. It does not record how often each of 262 144 codes occurred.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.cells import stored_values
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import Dataset, read_dataset
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.statistics import BucketStatistics, perplexity
from pipeline.dataset.statistics_collector import MAX_RATE, SIDES
from pipeline.dataset.tally import Tally
from pipeline.formatting import format_duration
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookUse:
    """How much of a codebook occurs, counted code by code."""

    size: int
    """Number of codes in the codebook."""
    used: int
    """Number of codes that occur."""
    perplexity: float
    """Perplexity of the codes: 2 to the power of their entropy in bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Statistics of all units that count."""

    output: str
    """URI of the dataset."""
    dataset: Dataset
    units: int
    """Number of units."""
    buckets: dict[str, BucketStatistics]
    """Statistics of the rows by bucket, in the order of names."""
    codebooks: dict[str, CodebookUse] = field(default_factory=dict)
    """Use of the codebook by FSQ tokenizer; empty unless the parts were read."""

    @property
    def total(self) -> BucketStatistics:
        """Statistics of the rows of all buckets."""
        return sum(self.buckets.values(), BucketStatistics())

    @property
    def exit_code(self) -> int:
        """Always 0."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": self.output,
            "fingerprint": self.dataset.fingerprint,
            "units": self.units,
            "all": _plain(self.total),
            "buckets": {name: _plain(bucket) for name, bucket in self.buckets.items()},
            "codebooks": {name: asdict(use) for name, use in self.codebooks.items()},
        }

    def lines(self) -> list[str]:
        """Return the same for a person."""
        lines = [f"dataset    {self.output}", *clip_lines(self.total), *_psnr_lines(self.total)]
        for name, use in self.codebooks.items():
            lines.append(
                f"codebook   {name}: {use.used} of {use.size} codes used"
                f" ({use.used / use.size:.1%}), perplexity {use.perplexity:.1f}"
            )
        for bucket, statistics in self.buckets.items():
            lines += ["", f"bucket {bucket}", *clip_lines(statistics), *_psnr_lines(statistics)]
            lines += _cell_lines(statistics)
        if len(self.buckets) > 1:
            lines += ["", "all buckets", *_cell_lines(self.total)]
        return lines


def read_statistics(store: Store, *, codes: bool = False) -> Statistics:
    """Return the statistics of all that is committed now, also while a job adds to it.

    Args:
        store: the dataset's root.
        codes: as for `statistics_of`.

    Raises:
        ConfigError: there is no dataset, or it is of another format version.
        StoreError: the log or a part is damaged.
    """
    return statistics_of(store, read_dataset(store), read_manifest(store), codes=codes)


def statistics_of(
    store: Store, dataset: Dataset, manifest: Manifest, *, codes: bool = False
) -> Statistics:
    """Return the statistics of the units that count at one version of the log.

    Args:
        store: the dataset's root.
        dataset: head of the dataset.
        manifest: manifest of the version.
        codes: whether to read all parts and count codes one by one.

    Raises:
        StoreError: a part is damaged.
    """
    return Statistics(
        output=store.uri,
        dataset=dataset,
        units=len(manifest),
        buckets=Tally.of(manifest).statistics,
        codebooks=_codebooks(store, dataset, manifest) if codes else {},
    )


def _codebooks(store: Store, dataset: Dataset, manifest: Manifest) -> dict[str, CodebookUse]:
    """Read all parts and count the codes of each FSQ tokenizer."""
    columns = [column for column in dataset.tokenizers if column.kind == "fsq"]
    counts = {c.name: np.zeros(c.codebook_size or 0, np.int64) for c in columns}
    for part in manifest.parts() if columns else ():
        with open_parquet(store, part.path) as parquet:
            for rows in unit_rows(parquet, part, list(counts)):
                for column in columns:
                    indices = stored_values(rows[column.name], column)
                    count = counts[column.name]
                    count += np.bincount(indices, minlength=len(count))
    return {name: _use(count) for name, count in counts.items()}


def _use(counts: NDArray[np.int64]) -> CodebookUse:
    return CodebookUse(
        size=len(counts),
        used=int(np.count_nonzero(counts)),
        perplexity=perplexity(tuple(counts.tolist())),
    )


def _plain(statistics: BucketStatistics) -> dict[str, Any]:
    values = asdict(statistics)
    for name in ("microseconds", "latents", "levels", "psnr"):
        del values[name]
    return {
        **values,
        "seconds": statistics.microseconds / 1e6,
        "latents": {
            name: {"cells": sums.cells, "mean": sums.mean(), "std": sums.std()}
            for name, sums in statistics.latents.items()
        },
        "levels": {
            name: {
                "cells": levels.cells,
                "counts": levels.counts,
                "perplexity": levels.perplexity(),
            }
            for name, levels in statistics.levels.items()
        },
        "psnr": {name: sums.to_dict() for name, sums in statistics.psnr.items()},
    }


def clip_lines(statistics: BucketStatistics) -> Iterator[str]:
    """Yield what the clips are, for a person."""
    clips = statistics.clips
    length = format_duration(statistics.microseconds / 1e6)
    padded = f" ({statistics.padded_frames} copies)" if statistics.padded_frames else ""
    yield f"clips      {clips} · {statistics.frames} frames{padded} · {length} of source"
    if clips:
        characters = statistics.caption_characters / max(1, statistics.captions)
        yield (
            f"captions   {statistics.captions} clips ({statistics.captions / clips:.1%}),"
            f" {characters:.0f} characters on average · {statistics.metas} with metadata"
        )
        yield f"lengths    {_histogram(statistics.lengths, '≤ {} frames'.format)}"
        yield f"sources    {_histogram(statistics.sides, _side)}"
        yield f"rates      {_histogram(statistics.rates, _rate)}"


def _psnr_lines(statistics: BucketStatistics) -> Iterator[str]:
    for name, sums in statistics.psnr.items():
        yield f"psnr       {name}: {sums}"
        if sums.counts:
            yield f"           {_histogram(sums.counts, '{} dB'.format)}"


def _histogram(counts: Mapping[int, int], label: Callable[[int], str]) -> str:
    """Return `≤ 480 px: 12 · ≤ 720 px: 3`."""
    return " · ".join(f"{label(value)}: {count}" for value, count in sorted(counts.items()))


def _side(pixels: int) -> str:
    return f"> {SIDES[-2]} px" if pixels == SIDES[-1] else f"≤ {pixels} px"


def _rate(rate: int) -> str:
    return f"≥ {rate} fps" if rate == MAX_RATE else f"{rate} fps" if rate else "images"


def _cell_lines(statistics: BucketStatistics) -> Iterator[str]:
    for name, sums in statistics.latents.items():
        yield f"{name}: {sums.cells} cells of {len(sums.sums)} channels"
        for channel, (mean, std) in enumerate(zip(sums.mean(), sums.std(), strict=True)):
            yield f"  channel {channel:2d}  mean {mean:+.5f}  std {std:.5f}"
    for name, levels in statistics.levels.items():
        yield f"{name}: {levels.cells} codes"
        for channel, (counts, value) in enumerate(
            zip(levels.counts, levels.perplexity(), strict=True)
        ):
            shares = " ".join(f"{count / levels.cells:4.0%}" for count in counts)
            yield f"  channel {channel:2d}  perplexity {value:.2f} of {len(counts)}  {shares}"
