"""Clips that a generator trains on, and held-out clips that only measure it."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import count
from typing import Any

from torch.utils.data import DataLoader

from pipeline.errors import ConfigError
from pipeline.reading import Joined, Snapshot, TokenDataset, TokenizerColumn


def open_clips(
    corpus: Snapshot, column: TokenizerColumn, batch: int, seed: int, channels: Mapping[str, int]
) -> TokenDataset:
    """Return the reader of a column's cells and the clips' keys; `channels` as it takes them.

    Raises:
        ConfigError: the dataset has too few clips.
    """
    # Full batches only: ranks synchronise in every step, so each must have as many batches.
    data = TokenDataset(
        corpus,
        [column.name, "key"],
        batch,
        buckets=clip_buckets(corpus),
        seed=seed,
        drop_last=True,
        channels=channels,
    )
    if not len(data):
        raise ConfigError(
            f"--batch {batch}: {corpus.store.uri} has {corpus.buckets} clips, and each of"
            f" {data.world} ranks needs a full batch of one bucket, not all…; use a smaller one"
        )
    return data


def endless(data: TokenDataset, loaders: int) -> Iterator[dict[str, Any]]:
    """Yield batches from the reader's position, epoch after epoch, as many on every rank."""
    loader = DataLoader(data, batch_size=None, num_workers=loaders, persistent_workers=loaders > 0)
    for epoch in count(data.epoch):
        data.set_epoch(epoch)
        yield from loader


def clip_buckets(corpus: Snapshot | Joined) -> list[str]:
    """Return the buckets whose clips have one length, so not those of whole videos.

    Raises:
        ConfigError: there is none.
    """
    if found := [name for name in corpus.buckets if not name.startswith("all")]:
        return found
    raise ConfigError(
        f"no clips of one length to train on; buckets: {', '.join(corpus.buckets) or 'none'}"
    )


def is_held_out(key: str, share: float) -> bool:
    """Return whether a sample belongs to the fraction that training never sees.

    Only its key decides: all clips of a sample are held out or none, however the corpus grows.
    """
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) < share * 2**64
