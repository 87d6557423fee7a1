"""Batches of tokens for training: every row once per epoch, for any number of ranks and workers.

The dataset makes batches itself, each of one bucket, so a loader does not (`batch_size=None`). The
epoch is one order of batches for all ranks and workers (`pipeline.reading.epoch_order`); they take
turns in it. Ranks that took the same number of steps have together taken the batches up to one
position. This position is the whole state: another number of ranks or workers continues from it.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Literal

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.errors import ConfigError
from pipeline.reading.channels import Wanted
from pipeline.reading.checks import plain, require_free, require_state, require_whole
from pipeline.reading.columns import WINDOW_COLUMNS
from pipeline.reading.corpus import Corpus
from pipeline.reading.epoch_order import WINDOWS, EpochOrder, Shuffle, draws
from pipeline.reading.pool_reader import PoolReader
from pipeline.reading.row_stream import RowStream
from pipeline.reading.selection import Selection
from pipeline.reading.spans import Prefix, Window, prefix_of, window_of

_log: Final = logging.getLogger(__name__)

_STRANDS_PER_RANK = 8
"""Number of strands for each rank: 1, 2, 4 or 8 workers of a rank do not share strands."""

_ABSENT: Final[Mapping[str, Any]] = {"channels": {}, "sides": []}
"""Values that an order can lack."""


class TokenDataset(IterableDataset[dict[str, Any]]):
    """Shuffled batches of the rows of a snapshot.

    A batch holds `columns` (see `pipeline.reading.columns`), whose first axis is rows, and
    `bucket`, `epoch` and `position`, from which `load_state_dict` continues.

    Args:
        snapshot: from `pipeline.open`, or joined.
        columns: names of the columns to read; no bytes of others are read.
        batch: number of rows of a batch. The last batch of each bucket can be shorter.
        buckets: names of the buckets to read; None reads all.
        shuffle: whether to shuffle. False keeps the order of rows within each strand; strands take
            turns.
        seed: random seed of the shuffle, from 0.
        drop_last: whether to leave out short batches, and then full ones until all ranks have the
            same number. This leaves out fewer than `world` full batches, and fewer than `batch`
            rows of each bucket. Without it, every row occurs once, and some ranks may have one
            batch more than others.
        rank: number of this process among those that train together; None asks torch.distributed.
        world: number of these processes; None asks torch.distributed.
        pool_rows: number of rows that are shuffled together. A rank holds this number of rows of
            each of its strands and buckets in memory.
        strands: number of equal pieces into which the rows of each bucket are cut, and which are
            read side by side. None takes 8 × world, or the number of the state that is loaded.
            Ranks × workers should divide it, otherwise row groups are read more than once. The
            order of batches depends on it.
        normalized: whether latents are normalised as their generator's authors do
            (`TokenizerColumn.normalize`): in float32, returned in their own type. Log-variances
            (`N_logvar`) stay those of the stored latents.
        dtype: type of latents, such as torch.float16; None is that of the stored values, and
            float32 for those stored in uint8.
        frames: number of frames of shorter clips, which are read from the beginning of the stored
            ones: `num_frames`, `padded_frames`, latents and tracks are those of these clips. None
            reads whole clips. Needs causal tokenizers and 1 + k·f frames.
        first_frame: whether to read the first frame as an image; the same as `frames=1`.
        window: number of latent frames of a window of each whole video; needs buckets of whole
            videos, and leaves shorter ones out. Other columns are those of the whole video. A batch
            also holds `pipeline.reading.columns.WINDOW_COLUMNS`.
        start: where windows begin: `first` is the video's beginning, `random` a latent frame that
            depends on the seed, the epoch and the place in the order.
        sequence: number of consecutive clips of one sample that make a row, so that columns begin
            with the axes [batch, sequence]; `batch` and `pool_rows` count such rows. Clips in no
            whole sequence are left out.
        split: samples to read: `train` or `validation`. The key of a sample decides its side.
        holdout: share of the samples that are for validation; set with `split`.
        channels: number of FSQ channels to keep, by column of indices, such as `{"fsq": 4}`. The
            column is then read as prefixes, in the order of channels that is stored beside the
            model (`vidtok.channels`). `{"fsq": (4, order)}` gives another order.

    Attributes:
        columns: names of the columns that are read.
        codebook_sizes: number of different indices in batches, by column of indices.
        left_out: number of clips that `sequence` or `window` leaves out.

    Raises:
        ConfigError: an argument is wrong, or two exclude each other.
        StoreError: a part cannot be read; with `window`, `sequence` or `split` only, which read a
            few columns of all rows.
    """

    def __init__(
        self,
        snapshot: Corpus,
        columns: Sequence[str],
        batch: int,
        *,
        buckets: Sequence[str] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world: int | None = None,
        pool_rows: int = 512,
        strands: int | None = None,
        normalized: bool = False,
        dtype: torch.dtype | None = None,
        frames: int | None = None,
        first_frame: bool = False,
        window: int | None = None,
        start: Literal["first", "random"] = "random",
        sequence: int | None = None,
        split: Literal["train", "validation"] | None = None,
        holdout: float | None = None,
        channels: Mapping[str, Wanted] | None = None,
    ) -> None:
        require_whole(batch=batch, seed=seed, rank=rank, world=world, pool_rows=pool_rows)
        require_whole(strands=strands, frames=frames, window=window, sequence=sequence)
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = (distributed.get_rank() if together else 0) if rank is None else rank
        self.world = (distributed.get_world_size() if together else 1) if world is None else world
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank = {self.rank}, world = {self.world}: need 0 <= rank < world")
        for name, value, least in (
            ("batch", batch, 1),
            ("pool_rows", pool_rows, batch),
            ("strands", 1 if strands is None else strands, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} = {value}: must be {least} or more")
        if first_frame + (frames is not None) + (window is not None) > 1:
            raise ConfigError("frames, first_frame and window: set one of them")
        self._selection = Selection(
            split=split, holdout=holdout, sequence=sequence, window=window, start=start
        )
        require_free(
            columns, ("bucket", "epoch", "position", *WINDOW_COLUMNS * (window is not None))
        )
        self.columns = tuple(columns)
        snapshot = Corpus.of(snapshot)
        self._buckets = snapshot.chosen_buckets(buckets)
        videos = snapshot.video_columns(columns)
        self._span: Prefix | Window | None = None
        if window is not None:
            self._span = window_of(window, start, videos, self._buckets)
        elif first_frame or frames is not None:
            self._span = prefix_of(1 if frames is None else frames, videos, self._buckets)
        prefixes = snapshot.prefixes_of(columns, channels)
        sizes = {n: column.codebook_size for n, column in videos.items() if column.codebook_size}
        self.codebook_sizes = sizes | {n: each.codebook_size for n, each in prefixes.items()}
        self._kept = {name: list(each.kept) for name, each in prefixes.items()}
        windows = self._span if isinstance(self._span, Window) else None
        corpus, self.left_out = self._selection.rows(snapshot, self._buckets, windows)
        self._reader = corpus.reader(
            columns, normalize=normalized, dtype=dtype, span=self._span, prefixes=prefixes
        )
        self._sides = snapshot.sides_of(columns)
        self._parts = [corpus.parts(bucket) for bucket in self._buckets]
        self._rows = [sum(part.rows for part in parts) for parts in self._parts]
        for bucket, rows in zip(self._buckets, self._rows, strict=True):
            if drop_last and 0 < rows < batch and not self.rank:
                _log.warning(
                    "%s: drop_last leaves out all its rows in every epoch: there are %d, and a"
                    " batch needs %d",
                    bucket,
                    rows,
                    batch,
                )
        self._batch = batch
        self._shuffle = shuffle
        self._seed = seed
        self.drop_last = drop_last
        self._pool_rows = pool_rows
        self._strands = strands
        self._version, self._fingerprint = snapshot.version, snapshot.fingerprint
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]
        self._loaded = 0, 0, 0
        """Epoch; position where the turns of ranks and workers begin; position to continue from."""
        self._at = 0, 0
        """Epoch and position of this object."""

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration reads, from 0."""
        return int(self._epoch)

    @property
    def place(self) -> tuple[int, int]:
        """Epoch, and position in its order, from which the next iteration reads."""
        return self.epoch, self._starts(self.epoch)[1]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration reads: another order of the same rows.

        Without this call every iteration yields the same batches.

        Raises:
            ConfigError: the number is not a whole one from 0.
        """
        require_whole(epoch=epoch)
        if epoch < 0:
            raise ConfigError(f"epoch = {epoch}: must be 0 or more")
        self._epoch.fill_(epoch)
        self._at = epoch, self._starts(epoch)[1]

    def __len__(self) -> int:
        """Return the number of batches that this rank has left in this epoch; reads no file."""
        return self.steps(self.epoch, self._starts(self.epoch)[0])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return the batches of this rank, or of this worker's share, from the position on.

        Raises:
            StoreError: a part cannot be read.
        """
        # Not with the first batch: a caller may ask for a state before it.
        epoch = self.epoch
        start, position = self._starts(epoch)
        self._at = epoch, position
        return self._batches(epoch, start, position)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this object, for a training loop without workers.

        With workers, their copies advance, and this object does not. Use `state_after` then.
        `torchdata.stateful_dataloader.StatefulDataLoader` asks the workers itself.
        """
        return self._state(*self._at)

    def state_after(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the state after a batch: the same on ranks that took the same number of steps."""
        return self._state(batch["epoch"], batch["position"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; the number of ranks and workers may differ.

        Call it before the loader starts its workers.

        Raises:
            ConfigError: the state is of another order of batches.
        """
        require_state(state, ("epoch", "start", "position", "order"), "TokenDataset")
        self.require_order(state["order"])
        # The state of a worker is loaded into the worker with the same turn, in the same order.
        start = state["start"] if get_worker_info() else state["position"]
        self._loaded = state["epoch"], start, state["position"]
        self.set_epoch(state["epoch"])

    def require_order(self, order: Mapping[str, Any]) -> None:
        """Refuse the `order` of another dataset's state; its `strands` are taken over if not set.

        Raises:
            ConfigError: the state is of another order of batches.
        """
        own = self.order()
        if self._strands is None:
            own["strands"] = order.get("strands")
        for name in dict.fromkeys([*own, *_ABSENT]):
            now, then = (each.get(name, _ABSENT.get(name)) for each in (own, order))
            if now != then:
                raise ConfigError(
                    f"state: {name} = {then!r}, this dataset has {now!r}; use the same value, or"
                    " start without a state"
                )
        self._strands = own["strands"]

    def _batches(self, epoch: int, start: int, position: int) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        turn, turns = (worker.id, worker.num_workers) if worker else (0, 1)
        first = start + self.rank
        steps = range(turn, self.steps(epoch, start), turns)
        left = (first + step * self.world for step in steps)
        for batch in self.read(epoch, (i for i in left if i >= position), start):
            self._at = epoch, batch["position"]
            yield batch

    def steps(self, epoch: int, start: int = 0) -> int:
        """Return the number of batches of this rank in an epoch, from a position on."""
        order = self._order(epoch)
        stop = len(order)
        if self.drop_last:
            stop = start + (stop - start) // self.world * self.world
        return len(range(start + self.rank, stop, self.world))

    def read(self, epoch: int, places: Iterable[int], start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the batches at some places of the order of an epoch.

        Args:
            epoch: number of the epoch.
            places: places of batches in the order, ascending.
            start: position where the turns of the ranks begin.

        Raises:
            StoreError: a part cannot be read.
        """
        shuffle = Shuffle(self._seed, epoch, self._shuffle)
        streams = [
            RowStream(parts, bucket, shuffle, self._reader.runs)
            for bucket, parts in enumerate(self._parts)
        ]
        with PoolReader(self._order(epoch), streams, self._reader) as pools:
            for i, place, rows in pools.batches(places):
                yield self._reader.batch(rows, self._draws(epoch, i, len(rows))) | {
                    "bucket": self._buckets[place.pool.bucket],
                    "epoch": epoch,
                    "position": start + ((i - start) // self.world + 1) * self.world,
                }

    def _draws(self, epoch: int, place: int, rows: int) -> Sequence[int] | None:
        """Return the random numbers that place the windows of a batch; None without windows."""
        if not isinstance(self._span, Window):
            return None
        if self._selection.start == "first":
            return [0] * rows
        numbers: list[int] = draws(rows, self._seed, epoch, WINDOWS, place).tolist()
        return numbers

    def _starts(self, epoch: int) -> tuple[int, int]:
        """Return the position where the turns of an epoch begin, and where this object begins."""
        return self._loaded[1:] if self._loaded[0] == epoch else (0, 0)

    def _order(self, epoch: int) -> EpochOrder:
        return EpochOrder(
            self._rows,
            batch=self._batch,
            strands=self._num_strands(),
            pool_batches=self._pool_rows // self._batch,
            shuffle=Shuffle(self._seed, epoch, self._shuffle),
            drop_last=self.drop_last,
        )

    def _num_strands(self) -> int:
        return self._strands or _STRANDS_PER_RANK * self.world

    def _state(self, epoch: int, position: int) -> dict[str, Any]:
        start, order = self._starts(epoch)[0], self.order()
        state = {"epoch": epoch, "position": position, "start": start, "order": order}
        return dict(plain(state))

    def order(self) -> dict[str, Any]:
        """Return everything that decides which rows a position means.

        `channels`, only if set, are the channels that are kept by column, in the order of worth: a
        file of channels that was fitted again would change what the indices mean. `sides`, only of
        a join, are the numbers of the datasets that are read: rows follow their row groups.
        """
        return {
            "fingerprint": self._fingerprint,
            "version": self._version,
            "buckets": dict(zip(self._buckets, self._rows, strict=True)),
            "batch": self._batch,
            "pool_rows": self._pool_rows,
            "strands": self._num_strands(),
            "shuffle": self._shuffle,
            "seed": self._seed,
            "drop_last": self.drop_last,
            **asdict(self._selection),
            **({"channels": self._kept} if self._kept else {}),
            **({"sides": self._sides} if self._sides else {}),
        }
