"""What a format of a trainer is to the export, and how files are cut."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.operations.export.items import Item
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class Target:
    """Where the items of one bucket and one group of units go."""

    store: Store
    """Root of the export."""
    bucket: str
    """Folder of the bucket, with a part or all of the export's files."""
    group: str
    """Name of the group of units, which is unique in the folder."""
    shard_bytes: int
    """Number of bytes at which a file of many items ends."""

    def write(self, path: str, data: bytes) -> int:
        """Write a file of the bucket's folder atomically, and return its size in bytes."""
        self.store.write(f"{self.bucket}/{path}", data)
        return len(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of a trainer."""

    write: Callable[[Target, Iterator[Item]], Iterator[int]]
    """Function that writes the items, and yields the size in bytes of each file. The same items
    give the same files."""
    normalized: bool = False
    """Whether the format holds normalised latents: its trainer does not normalise what it reads."""
    models: Mapping[str, str | None] = field(default_factory=dict)
    """Model of the text embeddings that belong to latents, by the model of the latents. None: no
    text embeddings. Empty: cells of every model and kind, with any text embeddings or none."""
    why_no_text: str = ""
    """Reason for which text embeddings are refused, for errors."""


def shards(items: Iterable[Item], num_bytes: int) -> Iterator[Iterator[Item]]:
    """Yield the items in runs of about `num_bytes`; each must be read before the next."""
    rest = iter(items)
    for first in rest:
        yield _shard(first, rest, num_bytes)


def _shard(item: Item, rest: Iterator[Item], num_bytes: int) -> Iterator[Item]:
    size = 0
    following: Item | None = item
    while following is not None:
        yield following
        size += following.num_bytes
        following = next(rest, None) if size < num_bytes else None


def clip_values(item: Item) -> dict[str, Any]:
    """Return what JSON beside a clip's tensors says about it."""
    return {
        **item.fields,
        "fps": item.fps,
        "height": item.bucket.height,
        "width": item.bucket.width,
    }
