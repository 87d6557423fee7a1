"""A dataset at one version of its log: which parts count, and what their columns hold.

The version is the number of the last log record that counts. No record is ever changed, so a
version always names the same rows, even if a job adds more later.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.dataset import Manifest, Tally, read_dataset, read_manifest
from pipeline.dataset.log.forgotten import ForgottenSince, read_forgotten
from pipeline.dataset.records import Counts, state_of
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.errors import ConfigError, StoreError
from pipeline.formatting import counted
from pipeline.reading.checks import require_whole
from pipeline.reading.columns import row_tensors
from pipeline.reading.committed_rows import CommittedRows
from pipeline.reading.joined import Joined, join
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class Snapshot(CommittedRows):
    """Rows of a dataset at one version, with their counts and statistics."""

    @property
    def counts(self) -> Counts:
        """Numbers of samples and clips by outcome, such as written, filtered or quarantined."""
        return self.manifest.counts()

    def statistics(self) -> Tally:
        """Return the statistics of this version's rows from the log alone.

        They are sums of units, so they include rows that were forgotten.

        `statistics().total.latents["kl"].mean()` and `.std()` normalise a model's inputs: one value
        for each channel.
        """
        return Tally.of(self.manifest)

    def sample(self, n: int, seed: int = 0) -> list[dict[str, Any]]:
        """Return n random rows, or all if there are fewer.

        Returns:
            Rows by column name; cells are tensors as in `TokenDataset`, without the batch axis.

        Raises:
            ConfigError: n is not a whole number from 0.
            StoreError: a part cannot be read.
        """
        require_whole(n=n, seed=seed)
        if n < 0:
            raise ConfigError(f"n = {n}: must be 0 or more")
        rows = (read_row(self.store, drawn) for drawn in draw_rows(self.manifest, n, seed))
        return [row_tensors(row, self.tokenizers) for row in rows]

    def join(
        self,
        other: CommittedRows | str,
        *,
        on: Literal["clip_id", "key"] = "clip_id",
        prefix: str = "",
        storage_options: Mapping[str, Any] | None = None,
    ) -> Joined:
        """Return the rows with the columns of another dataset, or of a table, beside their own.

        Rows of two datasets belong together if their `clip_id` and bucket are equal. This reads
        the ids of all rows. Clips that only one dataset has are left out, counted in
        `Joined.missing` and logged. A clip without a row in a table stays, with null values.

        Args:
            other: a snapshot from `pipeline.open`, made over the same source by the same clip
                rule, or from the rows of this one; or the URI of a Parquet file.
            on: name of the table's column that names clips: `clip_id`, or `key` for all clips of
                a sample. Datasets are joined on `clip_id`.
            prefix: text before the names of the other's columns. With a prefix, the other's clip
                fields (`caption`, `meta`, …) can be read too.
            storage_options: for the table, passed to fsspec (credentials, endpoint).

        Raises:
            ConfigError: the other is not such a dataset or table, or has columns of the same names.
            StoreError: a part cannot be read, or two of its rows have one `clip_id`.
        """
        return join(self, other, on=on, prefix=prefix, storage_options=storage_options)


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
        StoreError: a part of this version was replaced by `retry` and then deleted by `vacuum`,
            samples of this version were forgotten since, the log is damaged, or the store refuses.
    """
    require_whole(version=version)
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


def _require_nothing_forgotten(store: Store, manifest: Manifest, newest: Manifest) -> None:
    """Refuse a version with samples that a later record forgot."""
    if newest.forgets:
        then, now = (_forgotten_by_unit(each) for each in (manifest, newest))
        if units := sum(count < now.get(unit, 0) for unit, count in then.items()):
            raise _forgotten(store, manifest, units)


def _forgotten(store: Store, manifest: Manifest, units: int) -> StoreError:
    return StoreError(
        f"{store.uri}: version {manifest.number} has samples in {counted(units, 'unit')}"
        " that were forgotten since then; open the newest version and start without a state"
    )


def _forgotten_by_unit(manifest: Manifest) -> dict[str, int]:
    columns = (manifest.table[name].to_pylist() for name in ("unit", "samples_forgotten"))
    return dict(zip(*columns, strict=True))


def _require_replaced_parts(store: Store, manifest: Manifest) -> None:
    """Refuse a version whose parts were deleted after a newer version replaced them."""
    newest = read_manifest(store)
    _require_nothing_forgotten(store, manifest, newest)
    replaced = {part.path for part in manifest.parts()} - {part.path for part in newest.parts()}
    for path in sorted(replaced):
        if not store.exists(path):
            raise StoreError(
                f"{store.locate(path)}: version {manifest.number} names it, but its unit was"
                " repeated or merged, and vacuum deleted it; open a newer version, up to"
                f" {newest.number}"
            )
    _require_no_forgotten_keys(store, manifest, newest, replaced)


def _require_no_forgotten_keys(
    store: Store, manifest: Manifest, newest: Manifest, replaced: Set[str]
) -> None:
    """Refuse a version with forgotten samples in units that were done again since.

    The newer rows can come from a source without these samples, so their record counts none. This
    reads the keys of the older rows.
    """
    later = sorted(set(newest.forgets) - set(manifest.forgets))
    units = [
        replace(unit, quarantine=None)
        for unit in (manifest.units() if later and replaced else ())
        if any(part.path in replaced for part in unit.parts)
    ]
    if units:
        now = {unit.unit: state_of(unit) for unit in newest.units()}
        since = ForgottenSince(store)
        since.add(read_forgotten(store, later).digests)
        again = (unit for unit in units if now.get(unit.unit) != state_of(unit))
        if count := sum(map(since.is_in, again)):
            raise _forgotten(store, manifest, count)
