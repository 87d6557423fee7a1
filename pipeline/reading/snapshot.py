"""A dataset at one version of its log: which parts count, and what their columns hold.

The version is the number of the last log record that counts. No record is ever changed, so a
version names the same rows for good, whatever a job adds later.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import Dataset, read_dataset
from pipeline.dataset.records import Counts, Part
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.dataset.totals import Statistics, statistics_of
from pipeline.errors import ConfigError, StoreError
from pipeline.reading.columns import row_tensors
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of a dataset at one version."""

    store: Store
    dataset: Dataset
    manifest: Manifest
    """Of the units that count at this version."""

    def __len__(self) -> int:
        """Return the number of rows, one per clip."""
        return self.counts.clips_written

    @property
    def version(self) -> int:
        """Number of the last log record that counts; 0 before the first."""
        return self.manifest.number

    @property
    def fingerprint(self) -> str:
        """Of all that changes the tokens; equal ones can be trained on together."""
        return self.dataset.fingerprint

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of every part."""
        return clip_schema(self.dataset.tokenizers)

    @property
    def tokenizers(self) -> tuple[TokenizerColumn, ...]:
        """What the cell columns hold."""
        return self.dataset.tokenizers

    @property
    def buckets(self) -> dict[str, int]:
        """Rows by name of bucket (`17x256x256`), sorted; those that have any."""
        rows: Counter[str] = Counter()
        for part in self.parts():
            rows[part.bucket] += part.rows
        return dict(sorted(rows.items()))

    def chosen_buckets(self, names: Sequence[str] | None) -> list[str]:
        """Return the buckets of those names, or all, sorted.

        Raises:
            ConfigError: no row is of a bucket of that name.
        """
        known = list(self.buckets)
        if isinstance(names, str) or set(names or ()) - set(known):
            raise ConfigError(f"buckets = {names!r}: name some of {', '.join(known)}")
        return [name for name in known if names is None or name in names]

    @property
    def counts(self) -> Counts:
        """Where the samples and clips of all units went."""
        return self.manifest.counts()

    def statistics(self) -> Statistics:
        """Return the statistics of this version's rows; only the log is read for them.

        `statistics().total.latents["kl"].mean()` and `.std()` are what a model's inputs are
        normalised with, one value for each channel.
        """
        return statistics_of(self.store, self.dataset, self.manifest)

    def parts(self, bucket: str | None = None) -> list[Part]:
        """Return the parts of all buckets, or of one, in the order of commits.

        A merged part, in which several units have rows, comes once for each run of rows that count.
        """
        return list(_joined(self.manifest.parts(bucket)))

    def sample(self, n: int, seed: int = 0) -> list[dict[str, Any]]:
        """Return n rows drawn at random, or all if there are fewer.

        Returns:
            Rows by column name; cells are tensors as in `TokenDataset`, without the batch axis.

        Raises:
            StoreError: a part cannot be read.
        """
        # Here, since it brings the decoder along, which nothing else of a reader needs.
        from pipeline.dataset.row_sampling import draw_rows, read_row

        rows = (read_row(self.store, drawn) for drawn in draw_rows(self.manifest, n, seed))
        return [row_tensors(row, self.tokenizers) for row in rows]


def _joined(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield parts as they are, but neighbouring rows of one merged part as one."""
    by_path: dict[str, list[Part]] = {}
    for part in parts:
        by_path.setdefault(part.path, []).append(part)
    for shares in by_path.values():
        run: Part | None = None
        for part in sorted(shares, key=_first_row):
            if run is not None and _first_row(run) + run.rows == _first_row(part):
                run = replace(run, rows=run.rows + part.rows)
                continue
            if run is not None:
                yield run
            run = part
        if run is not None:
            yield run


def _first_row(part: Part) -> int:
    return part.place.first_row if part.place else 0


def open_snapshot(
    uri: str, version: int | None = None, storage_options: Mapping[str, Any] | None = None
) -> Snapshot:
    """Open a dataset, also while a job adds to it.

    Args:
        uri: its root, a local folder or what fsspec opens.
        version: number of the log record to stop at; None takes what is committed now. A training
            run that is to be repeated names the `version` that it got.
        storage_options: passed to fsspec (credentials, endpoint).

    Raises:
        ConfigError: there is no dataset, or the log ends before that version.
        StoreError: a part of this version was replaced by `retry` and then deleted by `vacuum`, the
            log is damaged, or the store refuses.
    """
    store = Store(uri, storage_options or {})
    dataset = read_dataset(store)
    manifest = read_manifest(store, version)
    if manifest.fingerprint not in (None, dataset.fingerprint):
        raise ConfigError(
            f"{uri}: the log has fingerprint {manifest.fingerprint}, dataset.json"
            f" {dataset.fingerprint}; run `python -m pipeline verify`"
        )
    if version is not None:
        _require_replaced_parts(store, manifest)
    return Snapshot(store, dataset, manifest)


def _require_replaced_parts(store: Store, manifest: Manifest) -> None:
    """Refuse a version that lacks parts: all others may be deleted only by accident."""
    newest = read_manifest(store)
    replaced = {part.path for part in manifest.parts()} - {part.path for part in newest.parts()}
    for path in sorted(replaced):
        if not store.exists(path):
            raise StoreError(
                f"{store.locate(path)}: version {manifest.number} names it, but its unit was done"
                " again since and vacuum deleted it; open a newer version, up to"
                f" {newest.number}"
            )
