"""Reading: a dataset's committed rows as tensors, for training on tokens and latents.

    dataset.json, log ─► Snapshot ─┬► TokenDataset   batches of an epoch, shuffled, for many ranks
                                   │    └► mix       batches of several TokenDatasets, by weights
                                   └► TokenMap       rows by number

A snapshot is the dataset at one version of its log: it does not change while a job adds to it.
"""

from pipeline.dataset.schema import TokenizerColumn
from pipeline.reading.joined import Joined
from pipeline.reading.mixing import MixedDataset, mix
from pipeline.reading.snapshot import Snapshot, open_snapshot
from pipeline.reading.token_dataset import TokenDataset
from pipeline.reading.token_map import TokenMap

__all__ = [
    "Joined",
    "MixedDataset",
    "Snapshot",
    "TokenDataset",
    "TokenMap",
    "TokenizerColumn",
    "mix",
    "open_snapshot",
]
