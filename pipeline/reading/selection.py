"""Rows of a corpus by what they are: one side of a split, sequences of clips, long whole videos.

Each needs a few small columns of all rows. They are read once, file by file, and become one row
number for each clip that is kept. Nothing is stored on disk.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.reading.corpus import Corpus
from pipeline.reading.joined import Joined, as_joined
from pipeline.reading.matching import Numbers, read_numbers
from pipeline.reading.spans import Window
from pipeline.records import Bucket

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows that are read, as arguments of `TokenDataset` name them.

    Raises:
        ConfigError: an argument is wrong, or two exclude each other.
    """

    split: Literal["train", "validation"] | None = None
    """Side of the split by sample; None reads all rows."""
    holdout: float | None = None
    """Share of the samples that are for validation."""
    sequence: int | None = None
    """Number of clips of a row; None stands for single clips."""
    window: int | None = None
    """Number of latent frames of a window of a whole video."""
    start: Literal["first", "random"] = "random"
    """Where windows begin."""

    def __post_init__(self) -> None:
        if self.split not in (None, "train", "validation"):
            raise ConfigError(f"split = {self.split!r}: must be train or validation")
        if (self.split is None) != (self.holdout is None):
            raise ConfigError("split and holdout: set both, such as split='train', holdout=0.01")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ConfigError(f"holdout = {self.holdout}: must be above 0 and below 1")
        if self.sequence is not None and self.sequence < 2:
            raise ConfigError(f"sequence = {self.sequence}: must be 2 or more")
        if self.window is None and self.start != "random":
            raise ConfigError(
                f"start = {self.start!r}: places windows; set window, or leave it out"
            )
        if self.sequence and self.window:
            raise ConfigError("sequence and window: a whole video is one clip; set one of them")

    def rows(
        self, corpus: Corpus, buckets: Sequence[str], window: Window | None
    ) -> tuple[Corpus, int]:
        """Return the rows of some buckets that are selected, and how many clips are left out.

        The other side of a split is not left out.

        Args:
            corpus: all rows.
            buckets: names of the buckets.
            window: the windows, if there are any.

        Raises:
            ConfigError: a bucket of whole videos is to be read in sequences.
            StoreError: a part cannot be read.
        """
        if not (self.split or self.sequence or window):
            return corpus, 0
        joined = as_joined(corpus)
        joined = replace(joined, numbers={name: joined.numbers[name] for name in buckets})
        if self.holdout is not None:
            joined = _split(joined, self.holdout, validation=self.split == "validation")
        before = len(joined)
        if self.sequence:
            if whole := [name for name in buckets if not Bucket.named(name).frames]:
                raise ConfigError(
                    f"sequence = {self.sequence}: bucket {whole[0]} holds whole videos, each of"
                    " which is one clip; choose others with buckets=…"
                )
            joined = _in_sequences(joined, self.sequence)
        if window:
            joined = _long_enough(joined, window)
        left_out = before - len(joined) * joined.sequence
        if left_out:
            why = "in no whole sequence" if self.sequence else "shorter than a window"
            _log.info("%d of %d clips are %s and are left out", left_out, before, why)
        return joined, left_out


def _split(corpus: Joined, holdout: float, *, validation: bool) -> Joined:
    """Return the rows of one side of a split by sample.

    A sample is for validation if the first 8 bytes of the SHA-256 of `holdout <key>`, as a
    big-endian number, are less than `holdout` · 2^64. So the side of a sample depends on its key
    alone: it is the same for all its clips, in every dataset, and whatever else a dataset holds.
    """
    limit = round(holdout * 2**64)

    def held_out(table: pa.Table) -> NDArray[np.bool_]:
        return _hashes("holdout", table["key"]) < limit

    return _chosen(
        corpus, ["key"], held_out, lambda held: np.flatnonzero(held if validation else ~held)
    )


def _in_sequences(corpus: Joined, length: int) -> Joined:
    """Return runs of clips of one sample and bucket whose `clip_index` counts up by one.

    Runs do not overlap. The clips of a sample that are left after its last whole run, or before a
    gap, are left out.

    Raises:
        ConfigError: `clip_index` also counts clips of other rates or buckets.
    """
    clip = corpus.first.dataset.identity.get("clip", {})
    if isinstance(clip.get("fps"), list) or clip.get("every_bucket"):
        raise ConfigError(
            f"sequence = {length}: the clips of a sample are of several rates or buckets"
            " (clip.fps, clip.every_bucket), so clip_index does not say which of them follow each"
            " other; read it without sequence"
        )

    def places(table: pa.Table) -> NDArray[np.uint64]:
        samples = pc.binary_join_element_wise(table["unit"], table["key"], "/")
        index = table["clip_index"].to_numpy().astype(np.uint64)
        return np.column_stack([_hashes("sample", samples), index])

    def runs(found: NDArray[np.uint64]) -> Numbers:
        order = np.lexsort((found[:, 1], found[:, 0]))
        step = np.diff(found[order], axis=0)
        ends = np.append(np.flatnonzero((step != (0, 1)).any(1)) + 1, len(order))
        sizes = np.diff(ends, prepend=0)
        in_run = np.arange(len(order)) - np.repeat(ends - sizes, sizes)
        kept: Numbers = order[in_run < np.repeat(sizes // length * length, sizes)]
        return kept.reshape(-1, length)

    return replace(_chosen(corpus, ["unit", "key", "clip_index"], places, runs), sequence=length)


def _long_enough(corpus: Joined, window: Window) -> Joined:
    """Return the whole videos that have as many latent frames as a window."""
    least = (window.latent_frames - 1) * window.factor + 1
    return _chosen(
        corpus,
        ["num_frames"],
        lambda table: table["num_frames"].to_numpy(),
        lambda frames: np.flatnonzero(frames >= least),
    )


def _chosen(
    corpus: Joined,
    columns: Sequence[str],
    of: Callable[[pa.Table], NDArray[Any]],
    choose: Callable[[NDArray[Any]], Numbers],
) -> Joined:
    """Return rows by numbers that follow from their columns.

    Args:
        corpus: the rows.
        columns: names of the columns, of the first dataset.
        of: function that returns the numbers of a file's rows.
        choose: function that returns indices of rows, [rows] or [rows, sequence].
    """
    numbers = {}
    for bucket, sides in corpus.numbers.items():
        index = choose(read_numbers(corpus.first, bucket, columns, of)[sides[0]])
        numbers[bucket] = tuple(each[index] for each in sides)
    return replace(corpus, numbers=numbers)


def _hashes(purpose: str, texts: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return the first 8 bytes of the SHA-256 of `<purpose> <text>` as a number, for each text."""
    coded = pc.dictionary_encode(texts.combine_chunks())
    digests = [
        hashlib.sha256(f"{purpose} {text}".encode()).digest()[:8]
        for text in coded.dictionary.to_pylist()
    ]
    hashes = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
    found: NDArray[np.uint64] = hashes[coded.indices.to_numpy()]
    return found
