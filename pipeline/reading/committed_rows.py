"""The rows of a dataset at one version of its log: which parts count, and how they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.dataset import Dataset, Manifest, Part
from pipeline.dataset.schema import TokenizerColumn
from pipeline.reading.channels import ChannelPrefix, Wanted, channel_prefix
from pipeline.reading.columns import Columns
from pipeline.reading.corpus import Corpus
from pipeline.reading.row_groups import RowGroups
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class CommittedRows(Corpus):
    """The rows of a dataset at one version."""

    store: Store
    """Root of the dataset."""
    dataset: Dataset
    """Head of the dataset."""
    manifest: Manifest
    """Units that count at this version."""

    def __len__(self) -> int:
        """Return the number of rows, one per clip."""
        return self.manifest.counts().clips_written

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

    def reader(self, columns: Sequence[str], **options: Any) -> RowGroups:
        """Return a reader of these columns; see `Corpus.reader`."""
        known = Columns(self.tokenizers, columns, side=self.dataset.side, **options)
        return RowGroups(self.store, known)

    def prefixes(self, wanted: Mapping[str, Wanted]) -> dict[str, ChannelPrefix]:
        """Return the prefixes of channels that are read; see `Corpus.prefixes`."""
        return {name: channel_prefix(self.dataset, name, k) for name, k in wanted.items()}

    def video_columns(self, names: Sequence[str]) -> dict[str, TokenizerColumn]:
        """Return the tokenizers of videos among columns; see `Corpus.video_columns`."""
        videos = (column for column in self.tokenizers if column.kind != "embeddings")
        cells = {name: column for column in videos for name in column.cell_columns}
        return {name: cells[name] for name in names if name in cells}

    def parts(self, bucket: str | None = None) -> list[Part]:
        """Return the parts of all buckets, or of one, in the order of commits.

        A merged part, which holds rows of several units, occurs once per run of rows that count.
        """
        return _joined(self.manifest.parts(bucket))


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Return parts unchanged, but neighbouring rows of a merged part as one part."""
    by_path: dict[str, list[Part]] = {}
    for part in parts:
        by_path.setdefault(part.path, []).append(part)
    joined: list[Part] = []
    for shares in by_path.values():
        runs: list[Part] = []
        for part in sorted(shares, key=lambda share: share.first_row):
            whole = not part.left_out and runs and not runs[-1].left_out
            if whole and runs[-1].first_row + runs[-1].rows == part.first_row:
                runs[-1] = replace(runs[-1], rows=runs[-1].rows + part.rows)
            else:
                runs.append(part)
        joined += runs
    return joined
