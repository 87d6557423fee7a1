"""What can be read by bucket: a snapshot, or several that are joined."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pipeline.dataset.records import Part
from pipeline.errors import ConfigError
from pipeline.reading.row_groups import RowReader

if TYPE_CHECKING:
    from pipeline.reading.joined import Joined


class Corpus(ABC):
    """Rows in parts, each part of one bucket."""

    __slots__ = ()

    @abstractmethod
    def parts(self, bucket: str | None = None) -> list[Part]:
        """Return the parts of all buckets, or of one, in the order in which they are read."""

    @abstractmethod
    def reader(self, columns: Sequence[str], **options: Any) -> RowReader:
        """Return a reader of columns of these parts.

        Args:
            columns: names of the columns.
            options: options of `pipeline.reading.columns.Columns`.

        Raises:
            ConfigError: there is no such column, or no column was named.
        """

    @property
    @abstractmethod
    def version(self) -> int | str:
        """Version of the rows: a state of reading is valid for this one alone."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of everything that changes the tokens: datasets that share it can train together."""

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

    def join(
        self,
        other: "Corpus | str",
        *,
        on: Literal["clip_id", "key"] = "clip_id",
        prefix: str = "",
        storage_options: Mapping[str, Any] | None = None,
    ) -> "Joined":
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
        from pipeline.reading.joined import join

        return join(self, other, on=on, prefix=prefix, storage_options=storage_options)
