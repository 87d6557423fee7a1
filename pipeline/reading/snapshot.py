"""A dataset at one version of its log: which parts count, and what their columns hold.

The version is the number of the last log record that counts. No record is ever changed, so a
version always names the same rows, even if a job adds more later.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.dataset import Dataset, Manifest, Part, Tally, read_dataset, read_manifest
from pipeline.dataset.records import Counts
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError, StoreError
from pipeline.reading.columns import row_tensors
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of a dataset at one version."""

    store: Store
    """Root of the dataset."""
    dataset: Dataset
    """Head of the dataset."""
    manifest: Manifest
    """Units that count at this version."""

    def __len__(self) -> int:
        """Return the number of rows, one per clip."""
        return self.counts.clips_written

    @property
    def version(self) -> int:
        """Number of the last log record that counts; 0 before the first."""
        return self.manifest.number

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes the tokens: datasets that share it can train together."""
        return self.dataset.fingerprint

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of every part."""
        return self.dataset.schema

    @property
    def tokenizers(self) -> tuple[TokenizerColumn, ...]:
        """Tokenizers, which say what the cell columns hold."""
        return self.dataset.tokenizers

    @property
    def buckets(self) -> dict[str, int]:
        """Number of rows by bucket (`17x256x256`), sorted; buckets without rows are left out."""
        rows: Counter[str] = Counter()
        for part in self.parts():
            rows[part.bucket] += part.rows
        return dict(sorted(rows.items()))

    def chosen_buckets(self, names: Sequence[str] | None) -> list[str]:
        """Return the buckets of these names, or all for None, sorted.

        Raises:
            ConfigError: a bucket of such a name has no rows.
        """
        known = list(self.buckets)
        if isinstance(names, str) or set(names or ()) - set(known):
            raise ConfigError(f"buckets = {names!r}: name some of {', '.join(known)}")
        return [name for name in known if names is None or name in names]

    @property
    def counts(self) -> Counts:
        """Numbers of samples and clips by what became of them."""
        return self.manifest.counts()

    def statistics(self) -> Tally:
        """Return the statistics of this version's rows from the log alone.

        `statistics().total.latents["kl"].mean()` and `.std()` normalise a model's inputs: one value
        for each channel.
        """
        return Tally.of(self.manifest)

    def parts(self, bucket: str | None = None) -> list[Part]:
        """Return the parts of all buckets, or of one, in the order of commits.

        A merged part, which holds rows of several units, occurs once per run of rows that count.
        """
        return _joined(self.manifest.parts(bucket))

    def sample(self, n: int, seed: int = 0) -> list[dict[str, Any]]:
        """Return n random rows, or all if there are fewer.

        Returns:
            Rows by column name; cells are tensors as in `TokenDataset`, without the batch axis.

        Raises:
            StoreError: a part cannot be read.
        """
        rows = (read_row(self.store, drawn) for drawn in draw_rows(self.manifest, n, seed))
        return [row_tensors(row, self.tokenizers) for row in rows]


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Return parts unchanged, but neighbouring rows of a merged part as one part."""
    by_path: dict[str, list[Part]] = {}
    for part in parts:
        by_path.setdefault(part.path, []).append(part)
    joined: list[Part] = []
    for shares in by_path.values():
        runs: list[Part] = []
        for part in sorted(shares, key=_first_row):
            if runs and _first_row(runs[-1]) + runs[-1].rows == _first_row(part):
                runs[-1] = replace(runs[-1], rows=runs[-1].rows + part.rows)
            else:
                runs.append(part)
        joined += runs
    return joined


def _first_row(part: Part) -> int:
    return part.place.first_row if part.place else 0


def open_snapshot(
    uri: str, version: int | None = None, storage_options: Mapping[str, Any] | None = None
) -> Snapshot:
    """Open a dataset, also while a job adds to it.

    Args:
        uri: root of the dataset: a local folder, or any URI that fsspec opens.
        version: number of the last log record that counts; None takes the newest. To repeat a
            training run, name the `version` that it used.
        storage_options: passed to fsspec (credentials, endpoint).

    Raises:
        ConfigError: there is no dataset, it is of another format version, or the log ends before
            this version.
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
    """Refuse a version whose parts were deleted after a newer version replaced them."""
    newest = read_manifest(store)
    replaced = {part.path for part in manifest.parts()} - {part.path for part in newest.parts()}
    for path in sorted(replaced):
        if not store.exists(path):
            raise StoreError(
                f"{store.locate(path)}: version {manifest.number} names it, but its unit was done"
                " again and vacuum deleted it; open a newer version, up to"
                f" {newest.number}"
            )
