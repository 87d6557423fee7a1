"""Datasets of one column over the same clips, each with its own units, parts and row groups."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import Dataset, new_dataset, open_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, Reopened, UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.operations.compact import compact
from pipeline.reading import Snapshot
from pipeline.records import Bucket, Clip
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import IDENTITY
from tests.pipeline.units import SMALL, WIDE, make_clip

Unit = Sequence[tuple[Bucket, Clip]]
"""Clips of a unit and their buckets."""


def column(name: str) -> TokenizerColumn:
    return TokenizerColumn(
        name=name,
        kind="indices",
        dtype="uint32",
        axes=("t", "h", "w"),
        model="made",
        fingerprint="0" * 32,
        codebook_size=1 << 32,
    )


def head(name: str, made_from: Dataset | None = None, **clip: Any) -> Dataset:
    """Return the head of a dataset whose column has this name."""
    parent = {"from": made_from.fingerprint} if made_from else {}
    levels = [4] * 16
    facts = {"kind": "indices", "channels": 16, "codebook_size": 1 << 32, "levels": levels}
    made = {"weights": "made", "config": {"fsq_levels": levels}, "facts": facts}
    identity = parent | {"clip": {**IDENTITY["clip"], **clip}, "tokenizers": {name: made}}
    return new_dataset((column(name),), identity)


def make_unit(name: str, clips: int) -> Unit:
    return [(WIDE if n % 5 > 2 else SMALL, make_clip(name, n)) for n in range(clips)]


def cells_of(name: str, clip_id: str, edition: int = 0) -> np.ndarray:
    """Return the cells of a clip [1, 1, 2]: each column and edition has its own."""
    return np.array([[[crc32(f"{name} {clip_id}".encode()), edition]]], np.uint32)


def write_unit(
    store: Store,
    dataset: Dataset,
    unit: str,
    clips: Unit,
    *,
    edition: int = 0,
    source: str | None = None,
    row_group_bytes: int = 4 << 20,
    max_part_bytes: int = 256 << 20,
) -> UnitRecord:
    """Write the parts of a unit and return its record."""
    schema = clip_schema(dataset.tokenizers)
    name = dataset.tokenizers[0].name
    parts = []
    for bucket in (SMALL, WIDE):
        here = [clip for shape, clip in clips if shape == bucket]
        if here:
            cells = np.stack([cells_of(name, clip.clip_id, edition) for clip in here])
            with PartWriter(
                store,
                schema,
                unit=unit,
                bucket=bucket.name,
                row_group_bytes=row_group_bytes,
                max_part_bytes=max_part_bytes,
            ) as writer:
                writer.add(pa.Table.from_batches([clip_rows(here, {name: cells}, schema)]))
                parts += writer.publish()
    samples = len({clip.key for _, clip in clips})
    return UnitRecord(
        unit=unit,
        sources=(source or unit,),
        parts=tuple(parts),
        quarantine=None,
        counts=Counts(
            samples_read=samples,
            samples_with_clips=samples,
            clips_seen=len(clips),
            clips_written=len(clips),
        ),
        reasons={},
        timings={"decode": 1.0 + edition},
        statistics={},
    )


def write_sibling(store: Store, dataset: Dataset, units: Mapping[str, Unit], **sizes: Any) -> None:
    """Write a dataset, or add units to it."""
    open_dataset(store, dataset)
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="a test")
    for unit, clips in units.items():
        log.append([write_unit(store, dataset, unit, clips, **sizes)])


def do_again(store: Store, dataset: Dataset, unit: str, clips: Unit, **options: Any) -> None:
    """Reopen a committed unit and commit it with other clips."""
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="a retry")
    log.reopen([Reopened(unit=unit, sources=(unit,))])
    log.plan()
    log.append([write_unit(store, dataset, unit, clips, edition=1, **options)])


def write_anyhow(store: Store, dataset: Dataset, units: Mapping[str, Unit], rng: Random) -> None:
    """Write some of the clips, as a job, retries and compactions may have left them."""

    def some(clips: Unit) -> Unit:
        lost = rng.choice([0, 0, 0.3, 1])
        kept = [clip for clip in clips if rng.random() >= lost]
        if kept and rng.random() < 0.3:
            del kept[rng.randrange(len(kept))]
        return kept

    def sizes() -> dict[str, int]:
        return {
            "row_group_bytes": rng.choice([1, 500, 2000, 1 << 20]),
            "max_part_bytes": rng.choice([1, 4000, 1 << 20]),
        }

    open_dataset(store, dataset)
    done = [unit for unit in units if rng.random() < 0.8]
    rng.shuffle(done)
    for n, unit in enumerate(done):
        write_sibling(store, dataset, {unit: some(units[unit])}, **sizes())
        if rng.random() < 0.3:
            again = rng.choice(done[: n + 1])
            do_again(store, dataset, again, some(units[again]), **sizes())
        if rng.random() < 0.3:
            compact(store, part_bytes=rng.choice([6000, 1 << 20]))


def rows_of(snapshot: Snapshot) -> dict[tuple[str, str], dict[str, Any]]:
    """Return rows by bucket and id, without the code under test."""
    rows = {}
    for unit in read_manifest(snapshot.store, snapshot.version).units():
        for part in unit.parts:
            table = pq.read_table(snapshot.store.locate(part.path))
            first = part.place.first_row if part.place else 0
            for row in table.slice(first, part.rows).to_pylist():
                rows[part.bucket, row["clip_id"]] = row
    return rows
