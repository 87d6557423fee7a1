"""The Parquet files of FastVideo's text-to-video training.

    <bucket>/<group>-00000.parquet

Its loader takes every tensor as float32, puts clips of one shape into a batch, and reads a whole
row group for each row. Its training normalises latents itself.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from pipeline.operations.export.formats import Format, Target, shards
from pipeline.operations.export.items import Item

_GROUP_ROWS: Final = 8


def _tensor_fields(name: str) -> list[pa.Field]:
    return [
        pa.field(f"{name}_bytes", pa.binary()),
        pa.field(f"{name}_shape", pa.list_(pa.int64())),
        pa.field(f"{name}_dtype", pa.string()),
    ]


SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string()),
        *_tensor_fields("vae_latent"),
        *_tensor_fields("text_embedding"),
        pa.field("file_name", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("media_type", pa.string()),
        pa.field("width", pa.int64()),
        pa.field("height", pa.int64()),
        pa.field("num_frames", pa.int64()),
        pa.field("duration_sec", pa.float64()),
        pa.field("fps", pa.float64()),
    ]
)
"""Columns of the files. `num_frames` counts latent frames."""


def _write(target: Target, items: Iterator[Item]) -> Iterator[int]:
    for n, shard in enumerate(shards(items, target.shard_bytes)):
        with target.store.stage(target.bucket) as staged:
            with pq.ParquetWriter(staged.file, SCHEMA, compression="zstd") as writer:
                while rows := [_row(item) for item in islice(shard, _GROUP_ROWS)]:
                    writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            size = staged.file.tell()
            staged.publish(f"{target.bucket}/{target.group}-{n:05d}.parquet")
        yield size


def _row(item: Item) -> dict[str, Any]:
    assert item.text is not None
    return {
        "id": item.fields["clip_id"],
        **_tensor("vae_latent", item.cells),
        **_tensor("text_embedding", item.text),
        "file_name": item.fields["key"],
        "caption": item.caption,
        "media_type": "video",
        "width": item.bucket.width,
        "height": item.bucket.height,
        "num_frames": item.cells.shape[1],
        "duration_sec": item.fields["num_frames"] / item.fps,
        "fps": item.fps,
    }


def _tensor(name: str, values: Tensor) -> dict[str, Any]:
    return {
        f"{name}_bytes": values.contiguous().numpy().tobytes(),
        f"{name}_shape": list(values.shape),
        f"{name}_dtype": "float32",
    }


FASTVIDEO: Final = Format(
    write=_write, models={"diffusers:AutoencoderKLWan": "transformers:UMT5EncoderModel"}
)
"""The format of FastVideo."""
