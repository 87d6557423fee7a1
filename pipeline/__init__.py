"""The corpus job: video in, committed Parquet of VidTok tokens and latents out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.reading.snapshot import Snapshot


def open(
    uri: str, version: int | None = None, storage_options: Mapping[str, Any] | None = None
) -> "Snapshot":
    """Open a dataset for reading; see `pipeline.reading.snapshot.open_snapshot`."""
    # Here, since every process of the job imports this package, and none of them needs a reader.
    from pipeline.reading.snapshot import open_snapshot

    return open_snapshot(uri, version, storage_options)


__all__ = ["open"]
