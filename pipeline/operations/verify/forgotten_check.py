"""Searches all files of a dataset for forgotten samples, by the digests of their keys.

Read-only. It reads the columns `unit` and `key` of all parts and quarantine tables, also of those
that no record names. A file without a finding holds no row of a forgotten sample.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow.parquet as pq

from pipeline.dataset.log.forgotten import read_forgotten
from pipeline.dataset.log.manifest import Manifest
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.records import Part
from pipeline.errors import StoreError, one_line
from pipeline.formatting import counted
from pipeline.operations.findings import Finding
from pipeline.operations.unreferenced import unnamed_files
from pipeline.storage.store import Store, StoredFile

_FILES_AT_ONCE: Final = 16
_COMPACT: Final = "run compact, then vacuum --delete a day later"
_VACUUM: Final = "no record names it; run vacuum --delete, after publish if a table names it"


def check_forgotten(
    store: Store, manifest: Manifest, files: Iterable[StoredFile]
) -> Iterator[Finding]:
    """Yield the files that hold forgotten samples, with what deletes them.

    Args:
        store: the dataset's root.
        manifest: what counts.
        files: listing of the store, made before the manifest's newest record or after it.
    """
    forgotten = read_forgotten(store, manifest.forgets)
    if not forgotten:
        return
    sources: dict[str, tuple[str, ...]] = {}
    named: dict[str, list[Part]] = {}
    for record in manifest.units():
        sources[record.unit] = record.sources
        for part in record.files:
            named.setdefault(part.path, []).append(part)

    def rows(parquet: pq.ParquetFile, parts: list[Part] | None) -> int:
        """Return the number of samples that are forgotten, in rows that count or in all."""
        columns = ["unit", "key"]
        tables = (
            [parquet.read(columns=columns)]
            if parts is None
            else [table for part in parts for table in unit_rows(parquet, part, columns)]
        )
        samples = {
            (unit, key)
            for table in tables
            for unit, key in zip(*(table[name].to_pylist() for name in columns), strict=True)
        }
        return sum(
            bool(forgotten.keys_of(unit, sources.get(unit, ()), [key])) for unit, key in samples
        )

    def found(path: str) -> Finding | None:
        parts = named.get(path)
        try:
            with open_parquet(store, path) as parquet:
                if count := rows(parquet, None):
                    text = counted(count, "sample")
                    if parts is None:
                        return Finding("remains", path, f"{text}; {_VACUUM}")
                    if live := rows(parquet, parts):
                        return Finding("forgotten", path, f"{counted(live, 'sample')} that count")
                    return Finding("remains", path, f"{text}; {_COMPACT}")
        except StoreError as error:
            if store.exists(path):
                return Finding("remains", path, f"cannot be searched: {one_line(error)}")
        return None

    unnamed = [each.file.path for each in unnamed_files(files, manifest) if each.kind != "foreign"]
    paths = [*named, *(path for path in unnamed if path.startswith(("data/", "quarantine/")))]
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        yield from filter(None, pool.map(found, paths))
