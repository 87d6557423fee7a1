"""The format of a dataset: parts, commit log, manifest, statistics.

    clips, cells ─► PartWriter ─► UnitRecord ─► CommitLog ─► Manifest ─► Tally, Statistics

`docs/reference/format.md` specifies what is stored.
"""

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import Dataset, read_dataset
from pipeline.dataset.records import Part, UnitRecord
from pipeline.dataset.schema import TokenizerColumn
from pipeline.dataset.tally import Tally

__all__ = [
    "CommitLog",
    "Dataset",
    "Manifest",
    "Part",
    "Tally",
    "TokenizerColumn",
    "UnitRecord",
    "read_dataset",
    "read_manifest",
]
