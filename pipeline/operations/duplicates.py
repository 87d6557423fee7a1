"""Finds near-duplicates of clips by their perceptual hashes, and writes them as a table.

Each group has one clip that is kept; every other clip is within the distance of it. So all clips
but the kept ones can be left out, and nothing is lost that no kept clip resembles. Clips are taken
in the order of their unit, key and number, and the first of a group is kept: the result does not
depend on the order of commits.

    A sample repeats others if none of its clips is kept, and each resembles a clip of another one.
"""

import io
import posixpath
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dataset import Dataset, Manifest, Part, read_dataset, read_manifest
from pipeline.dataset.part_reader import part_rows
from pipeline.errors import ConfigError
from pipeline.formatting import counted, labelled
from pipeline.operations.near_hashes import MAX_DISTANCE, leaders
from pipeline.operations.outcome import Outcome
from pipeline.storage.access import wrong_settings
from pipeline.storage.store import Store

HASH: Final = "phash"
"""Column of the hashes, int64."""

_ORDER: Final = ("unit", "key", "clip_index")
_PARTS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates(Outcome):
    """Near-duplicates of a dataset, and the table that lists them."""

    output: str
    """URI of the dataset."""
    table: str
    """URI of the table."""
    rows: int
    """Number of rows of the table."""
    distance: int
    """Maximum number of bits in which near-duplicates differ, of 64."""
    clips: int
    """Number of clips."""
    groups: int
    """Number of groups of two clips and more."""
    repeats: int
    """Number of clips that resemble one that is kept."""
    samples: int
    """Number of samples."""
    repeated_samples: int
    """Number of samples all of whose clips resemble clips of other samples."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        share = self.repeats / max(1, self.clips)
        repeats = f"{counted(self.repeats, 'clip')} of {self.clips} ({share:.1%})"
        samples = f"{counted(self.repeated_samples, 'sample')} of {self.samples}"
        groups = counted(self.groups, "group")
        return [
            labelled("dataset", self.output),
            labelled("clips", f"{repeats} can be left out: {groups} within {self.distance} bits"),
            labelled("samples", f"{samples} have only clips that resemble clips of others"),
            labelled("table", f"{counted(self.rows, 'row')} in {self.table}"),
        ]


def duplicates(store: Store, out: str, *, distance: int, samples: bool = False) -> Duplicates:
    """Write a table of near-duplicates.

    Args:
        store: the dataset's root.
        out: URI of the table, a Parquet file.
        distance: maximum number of bits in which two hashes of near-duplicates differ.
        samples: whether the table lists samples instead of clips: those all of whose clips
            resemble clips of others.

    Raises:
        ConfigError: the dataset has no hashes, or `out` does not name a Parquet file.
        StoreError: a part is missing or damaged, or a store refuses.
    """
    if not out.endswith(".parquet"):
        raise ConfigError(f"--out {out}: is not a Parquet file; give a name that ends in .parquet")
    if not 0 <= distance <= MAX_DISTANCE:
        raise ConfigError(f"--distance {distance}: must be in 0 … {MAX_DISTANCE}")
    dataset = read_dataset(store)
    if HASH not in dataset.schema.names:
        raise ConfigError(
            f"{store.uri}: has no column {HASH}; tokenize with {HASH} in clip.measure"
        )
    clips = _hashed(store, dataset, read_manifest(store))
    kept, bits = _kept(clips[HASH].to_numpy().view(np.uint64), distance)
    table = _groups(clips, kept, bits)
    repeated, of = _repeated(clips, kept)
    wanted = _samples(clips, repeated, of) if samples else table
    file = io.BytesIO()
    pq.write_table(wanted, file)
    folder, name = posixpath.split(out)
    with wrong_settings("--out", out):
        Store(folder or ".", store.storage_options).write(name, file.getvalue())
    repeats = int((kept != np.arange(len(kept))).sum())
    return Duplicates(
        output=store.uri,
        table=out,
        rows=wanted.num_rows,
        distance=distance,
        clips=len(kept),
        groups=pc.sum(pc.and_(table["kept"], pc.greater(table["group_clips"], 1))).as_py() or 0,
        repeats=repeats,
        samples=len(repeated),
        repeated_samples=int(repeated.sum()),
    )


def _hashed(store: Store, dataset: Dataset, manifest: Manifest) -> pa.Table:
    """Return unit, key, number and hash of all clips, in their order."""
    columns = [*_ORDER, HASH]
    empty = dataset.schema.empty_table().select(columns).replace_schema_metadata()

    def rows_of(part: Part) -> pa.Table:
        return pa.concat_tables([empty, *part_rows(store, part, columns)])

    with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
        tables = [empty, *pool.map(rows_of, manifest.parts())]
    return pa.concat_tables(tables).sort_by([(name, "ascending") for name in _ORDER])


def _kept(hashes: NDArray[np.uint64], distance: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return of each clip the place of the clip that is kept, and the bits that differ."""
    distinct, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)  # the hashes in the order of the clips
    rank = np.argsort(order)
    leader, bits = leaders(distinct[order], distance)
    return first[order][leader][rank[which]], bits[rank[which]]


def _groups(clips: pa.Table, kept: NDArray[np.int64], bits: NDArray[np.uint8]) -> pa.Table:
    """Return all clips, group by group, with the clip of the group that is kept."""
    rows = np.argsort(kept, kind="stable")
    size = np.bincount(kept, minlength=len(kept))
    ids = _ids(clips)
    columns = {
        "clip_id": ids.take(rows),
        "resembles": ids.take(kept[rows]),
        "bits": pa.array(bits[rows], pa.int32()),
        "kept": pa.array(kept[rows] == rows),
        "group_clips": pa.array(size[kept[rows]], pa.int32()),
    }
    return pa.table(columns)


def _ids(clips: pa.Table) -> pa.ChunkedArray:
    """Return the `clip_id` of each row."""
    number = clips["clip_index"].cast(pa.string())
    return pc.binary_join_element_wise(clips["unit"], clips["key"], number, "/")


def _repeated(
    clips: pa.Table, kept: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which samples only have clips that resemble clips of others.

    Returns:
        For each sample, in order, whether that is so, and the place of its first clip.
    """
    starts = _changes(clips["unit"]) | _changes(clips["key"])
    first = np.flatnonzero(starts)
    if not len(first):
        return np.zeros(0, np.bool_), first
    sample = np.cumsum(starts) - 1
    return np.logical_and.reduceat(sample[kept] != sample, first), first


def _changes(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return which values differ from the one before; the first one does."""
    differs: Callable[[pa.Array, pa.Array], pa.Array] = pc.not_equal
    array = values.combine_chunks()
    if not len(array):
        return np.zeros(0, np.bool_)
    later: NDArray[np.bool_] = differs(array[1:], array[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[True], later])


def _samples(clips: pa.Table, repeated: NDArray[np.bool_], first: NDArray[np.int64]) -> pa.Table:
    """Return unit, key and number of clips of the samples that repeat others."""
    counts = np.diff(np.append(first, clips.num_rows))
    found = clips.select(["unit", "key"]).take(first[repeated])
    return found.append_column("clips", pa.array(counts[repeated], pa.int64()))
