"""Tars for WebDataset: cells of any tokenizer, as they are stored, with text and JSON beside them.

<bucket>/<group>-00000.tar
    <name>.cells.npy    latents [C, t, h, w] float32, not normalised, or indices [t, h, w] int64
    <name>.text.npy     embedding of the caption [tokens, channels] float32
    <name>.json         the clip's columns, with fps, height and width
"""

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Final

import numpy as np
from torch import Tensor

from pipeline.operations.export.formats import Format, Target, clip_values, shards
from pipeline.operations.export.items import Item


def _write(target: Target, items: Iterator[Item]) -> Iterator[int]:
    for n, shard in enumerate(shards(items, target.shard_bytes)):
        with target.store.stage(target.bucket) as staged:
            with tarfile.open(fileobj=staged.file, mode="w") as tar:
                for item in shard:
                    _add(tar, f"{item.name}.cells.npy", _npy(item.cells))
                    if item.text is not None:
                        _add(tar, f"{item.name}.text.npy", _npy(item.text))
                    _add(tar, f"{item.name}.json", json.dumps(clip_values(item)).encode())
            size = staged.file.tell()
            staged.publish(f"{target.bucket}/{target.group}-{n:05d}.tar")
        yield size


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # with a fixed time, so that the same items give the same bytes
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _npy(values: Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, values.contiguous().numpy())
    return file.getvalue()


WEBDATASET: Final = Format(write=_write)
"""The format of WebDataset."""
