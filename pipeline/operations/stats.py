"""The statistics of a dataset for training, from its log.

Only the use of whole codebooks and the bits per token by clip need the parts read: a unit records
how often each channel took each level, which is small. It does not record how often each of 262 144
codes occurred.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import starmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset import Dataset, Manifest, Tally, read_dataset, read_manifest
from pipeline.dataset.cells import stored_values
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.row_statistics import MAX_RATE, SIDES
from pipeline.dataset.statistics import BucketStatistics, perplexity
from pipeline.formatting import counted, format_duration, labelled
from pipeline.operations.outcome import Outcome
from pipeline.operations.scene_bits import SceneBits, scene_bits
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookSummary:
    """How much of a codebook occurs, counted code by code."""

    size: int
    """Number of codes in the codebook."""
    used: int
    """Number of codes that occur."""
    perplexity: float
    """Perplexity of the codes: 2 to the power of their entropy in bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Outcome):
    """Statistics of all that is committed."""

    output: str
    """URI of the dataset."""
    fingerprint: str
    """Fingerprint of the dataset."""
    tally: Tally
    """Sums over the units."""
    codebooks: dict[str, CodebookSummary] | None
    """Use of the codebook by FSQ tokenizer; None unless the parts were read."""
    bits: dict[str, SceneBits] | None
    """Bits per token by FSQ tokenizer that follows the scene; None unless the parts were read."""

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics of all buckets and of each."""
        return {
            "output": self.output,
            "fingerprint": self.fingerprint,
            "units": self.tally.units,
            "all": _plain(self.tally.total),
            "buckets": {name: _plain(bucket) for name, bucket in self.tally.buckets.items()},
            "codebooks": {name: asdict(use) for name, use in (self.codebooks or {}).items()},
            "bits": {name: asdict(bits) for name, bits in (self.bits or {}).items()},
        }

    def lines(self) -> list[str]:
        """Return the lines to print."""
        total = self.tally.total
        several = len(self.tally.buckets) > 1
        lines = [labelled("dataset", self.output), *_clip_lines(total)]
        if forgotten := self.tally.counts.clips_forgotten:
            text = f"{counted(forgotten, 'clip')}, which these statistics still include"
            lines.append(labelled("forgotten", text))
        if self.codebooks == {}:
            lines.append(labelled("codebook", "none: no tokenizer gives code indices"))
        for name, use in (self.codebooks or {}).items():
            used = f"{use.used} of {use.size} codes used ({use.used / use.size:.1%})"
            lines.append(labelled("codebook", f"{name}: {used}, perplexity {use.perplexity:.1f}"))
        if self.bits == {}:
            lines.append(
                labelled("bits", "none: no tokenizer has hold or channels, or there is no clip")
            )
        for name, bits in (self.bits or {}).items():
            lines += bits.lines(name)
        for bucket, statistics in self.tally.buckets.items():
            own = _clip_lines(statistics) if several else ()
            lines += ["", f"bucket {bucket}", *own, *_cell_lines(statistics)]
        if several:
            lines += ["", "all buckets", *_cell_lines(total)]
        return lines


def stats(store: Store, *, codes: bool = False, bits: bool = False) -> Stats:
    """Return the statistics of all that is committed now, also while a job adds to it.

    Args:
        store: the dataset's root.
        codes: whether to read all parts and count codes one by one.
        bits: whether to read columns of numbers of all parts for the bits per token.

    Raises:
        ConfigError: there is no dataset, or it is of another format version.
        StoreError: the log or a part is damaged.
    """
    dataset, manifest = read_dataset(store), read_manifest(store)
    return Stats(
        output=store.uri,
        fingerprint=dataset.fingerprint,
        tally=Tally.of(manifest),
        codebooks=_codebooks(store, dataset, manifest) if codes else None,
        bits=scene_bits(store, dataset, manifest) if bits else None,
    )


def _codebooks(store: Store, dataset: Dataset, manifest: Manifest) -> dict[str, CodebookSummary]:
    """Read all parts and count the codes of each FSQ tokenizer."""
    columns = [column for column in dataset.tokenizers if column.kind == "indices"]
    counts = {c.name: np.zeros(c.codebook_size or 0, np.int64) for c in columns}
    for part in manifest.parts() if columns else ():
        with open_parquet(store, part.path, num_bytes=part.bytes) as parquet:
            for rows in unit_rows(parquet, part, list(counts)):
                for column in columns:
                    indices = stored_values(rows[column.name], column)
                    count = counts[column.name]
                    if indices.max(initial=0) >= len(count):
                        raise ValueError(f"column {column.name}: an index outside the codebook")
                    count += np.bincount(indices, minlength=len(count))
    return {name: _use(count) for name, count in counts.items()}


def _use(counts: NDArray[np.int64]) -> CodebookSummary:
    return CodebookSummary(
        size=len(counts),
        used=int(np.count_nonzero(counts)),
        perplexity=perplexity(tuple(counts.tolist())),
    )


def _plain(statistics: BucketStatistics) -> dict[str, Any]:
    values = asdict(statistics)
    for name in ("microseconds", "measures", "latents", "levels", "psnr"):
        del values[name]
    return {
        **values,
        "seconds": statistics.microseconds / 1e6,
        "measures": {
            name: {value / 1000: count for value, count in counts.items()}
            for name, counts in statistics.measures.items()
        },
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


def clip_facts(statistics: BucketStatistics) -> Iterator[tuple[str, str]]:
    """Yield labels and texts that say what the clips are."""
    clips = statistics.clips
    length = format_duration(statistics.microseconds / 1e6)
    copies = counted(statistics.padded_frames, "copy", "copies")
    padded = f" ({copies})" if statistics.padded_frames else ""
    frames = counted(statistics.frames, "frame")
    yield "clips", f"{clips} · {frames}{padded} · {length} of source"
    if clips:
        characters = statistics.caption_characters / max(1, statistics.captions)
        share = f"{counted(statistics.captions, 'clip')} ({statistics.captions / clips:.1%})"
        average = f"{characters:.0f} characters on average"
        yield "captions", f"{share}, {average} · {statistics.metas} with metadata"
        yield "lengths", _histogram(statistics.lengths, "≤ {} frames".format)
        yield "sources", _histogram(statistics.sides, _side)
        yield "rates", _histogram(statistics.rates, _rate)
    for name, counts in statistics.measures.items():
        yield name, _histogram(counts, lambda value: f"≤ {value / 1000:g}")


def _clip_lines(statistics: BucketStatistics) -> Iterator[str]:
    yield from starmap(labelled, clip_facts(statistics))
    for name, sums in statistics.psnr.items():
        yield labelled("psnr", f"{name}: {sums}")
        if sums.counts:
            yield labelled("", _histogram(sums.counts, "{} dB".format))


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
