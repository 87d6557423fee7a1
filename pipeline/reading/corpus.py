"""What can be read by bucket: a snapshot, or several that are joined."""

import reprlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.dataset.records import Part
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError
from pipeline.reading.channels import ChannelPrefix, Wanted, checked
from pipeline.reading.row_groups import RowReader


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

    @abstractmethod
    def prefixes(self, wanted: Mapping[str, Wanted]) -> dict[str, ChannelPrefix]:
        """Return the prefixes of FSQ channels that columns are read as, by name of the column.

        Raises:
            ConfigError: a column has no FSQ indices, or no order of channels is known of it.
        """

    def prefixes_of(self, columns: Sequence[str], channels: object) -> dict[str, ChannelPrefix]:
        """Return `prefixes` of the argument `channels` of a reader of columns.

        Raises:
            ConfigError: as `prefixes`, or `channels` is wrong or names a column that is not read.
        """
        found = self.prefixes(checked(channels))
        if not isinstance(columns, str) and (unread := sorted(found.keys() - set(columns))):
            raise ConfigError(
                f"channels: column {unread[0]}: is not among the columns to read; add it there, or"
                " leave it out of channels"
            )
        return found

    @abstractmethod
    def video_columns(self, names: Sequence[str]) -> dict[str, TokenizerColumn]:
        """Return the tokenizers of videos among columns, by name of the cell column."""

    def sides_of(self, columns: Sequence[str]) -> list[int]:
        """Return the numbers of the joined datasets that columns are of; none if nothing is joined.

        The order in which rows are read follows the row groups of these datasets.
        """
        return []

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

    @staticmethod
    def of(snapshot: object) -> "Corpus":
        """Return what a reader was given, if it can be read.

        Raises:
            ConfigError: it is something else, such as a URI.
        """
        if isinstance(snapshot, Corpus):
            return snapshot
        raise ConfigError(
            f"snapshot = {reprlib.repr(snapshot)}: must be what pipeline.open(URI) or join returns"
        )

    def chosen_buckets(self, names: Sequence[str] | None) -> list[str]:
        """Return the buckets of these names, or all for None, sorted.

        Raises:
            ConfigError: a bucket of such a name has no rows, or none is named.
        """
        known = list(self.buckets)
        wrong = names is not None and (not len(names) or set(names) - set(known))
        if isinstance(names, str) or wrong:
            listed = ", ".join(known) or "none, because there are no rows"
            raise ConfigError(f"buckets = {names!r}: must be some of {listed}")
        return [name for name in known if names is None or name in names]
