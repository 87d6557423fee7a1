"""The format of a dataset: parts, commit log, manifest, statistics.

    clips, cells ─► PartWriter ─► UnitRecord ─► CommitLog ─► Manifest ─► Tally, Statistics

`docs/format.md` specifies what is stored.
"""

from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.format_version import FORMAT_VERSION
from pipeline.dataset.manifest import Manifest, read_manifest, write_manifest
from pipeline.dataset.metadata import Dataset, open_dataset, read_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, Part, UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.dataset.tally import Tally
from pipeline.dataset.totals import Statistics, read_statistics

__all__ = [
    "FORMAT_VERSION",
    "CommitLog",
    "Counts",
    "Dataset",
    "Manifest",
    "Part",
    "PartWriter",
    "Statistics",
    "Tally",
    "TokenizerColumn",
    "UnitRecord",
    "clip_schema",
    "open_dataset",
    "read_dataset",
    "read_manifest",
    "read_statistics",
    "write_manifest",
]
