"""Datasets of latents of other models with their text embeddings, as jobs leave them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.embeddings import Embedding, embedded_rows, embedded_text
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import Dataset, new_dataset, open_dataset, read_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.schema import Normalize, TokenizerColumn, clip_schema, packed_schema
from pipeline.job.embedding import state_of
from pipeline.records import Bucket, Clip
from pipeline.stages.messages import plain_rows
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import IDENTITY
from tests.pipeline.units import SMALL, WIDE, make_clip

CHANNELS, TEXT_WIDTH = 4, 6
NORMALIZE = Normalize(shift=(0.5, -1.0, 0.0, 2.0), scale=(2.0, 0.5, 1.0, 0.25))
WAN = TokenizerColumn(
    name="wan",
    kind="latents",
    dtype="float16",
    axes=("c", "t", "h", "w"),
    model="diffusers:AutoencoderKLWan",
    fingerprint="a" * 32,
    normalize=NORMALIZE,
)
LTX2 = replace(WAN, name="ltx", model="diffusers:AutoencoderKLLTX2Video")
TEXT = TokenizerColumn(
    name="text",
    kind="embeddings",
    dtype="float16",
    axes=("n", "c"),
    model="transformers:UMT5EncoderModel",
    fingerprint="d" * 32,
)


def head(*columns: TokenizerColumn) -> Dataset:
    """Return the head of a dataset of latents."""
    facts = {
        "kind": "latents",
        "channels": CHANNELS,
        "codebook_size": None,
        "levels": [],
    }
    made = {c.name: {"model": c.model, "facts": facts, "weights": "made"} for c in columns}
    return new_dataset(columns, {"clip": IDENTITY["clip"], "tokenizers": made})


def text_head(parent: Dataset, *columns: TokenizerColumn) -> Dataset:
    """Return the head of a dataset of text embeddings."""
    made = {c.name: {"width": TEXT_WIDTH, "pooled": False} for c in columns}
    clip = parent.identity["clip"]
    identity = {"from": parent.fingerprint, "clip": clip, "tokenizers": {}, "embedders": made}
    return new_dataset(columns, identity)


def clips_of(unit: str, count: int) -> dict[Bucket, list[Clip]]:
    clips = [make_clip(unit, n) for n in range(count)]
    return {SMALL: clips[::2], WIDE: [replace(clip, num_frames=9) for clip in clips[1::2]]}


def latent_of(column: str, clip: str, bucket: Bucket) -> NDArray[np.float16]:
    """Return the latent of a clip: each column and clip has its own."""
    rng = np.random.default_rng(crc32(f"{column} {clip}".encode()))
    shape = (CHANNELS, 1 + (bucket.frames - 1) // 4, bucket.height // 8, bucket.width // 8)
    return rng.standard_normal(shape).astype(np.float16)


def text_of(caption: str) -> NDArray[np.float16]:
    """Return the embedding of a caption, with as many tokens as it has letters, and one."""
    rng = np.random.default_rng(crc32(caption.encode()))
    return rng.standard_normal((len(caption) + 1, TEXT_WIDTH)).astype(np.float16)


def write_unit(
    store: Store, dataset: Dataset, unit: str, count: int, *, leave_out: Sequence[str] = ()
) -> UnitRecord:
    """Write the parts of a unit of latents or, of its text, without the clips `leave_out`."""
    schema = clip_schema(dataset.tokenizers)
    texts = dataset.tokenizers[0].kind == "embeddings"
    parts = []
    for bucket, clips in clips_of(unit, count).items():
        here = [clip for clip in clips if clip.clip_id not in leave_out]
        if not here:
            continue
        if texts:
            captions = map(embedded_text, here)
            found = {text: Embedding((0,) * (len(text) + 1), text_of(text)) for text in captions}
            names = {column.name: found for column in dataset.tokenizers}
            packed = embedded_rows(here, names, packed_schema(schema))
            tables = plain_rows(pa.Table.from_batches([packed]), schema, 1 << 20)
        else:
            cells = {
                column.name: np.stack([latent_of(column.name, c.clip_id, bucket) for c in here])
                for column in dataset.tokenizers
            }
            tables = iter([pa.Table.from_batches([clip_rows(here, cells, schema)])])
        with PartWriter(
            store, schema, unit=unit, bucket=bucket.name, row_group_bytes=2000
        ) as writer:
            for table in tables:
                writer.add(table)
            parts += writer.publish()
    rows = sum(part.rows for part in parts)
    return UnitRecord(
        unit=unit,
        sources=(f"/in/{unit}.tar",),
        parts=tuple(parts),
        quarantine=None,
        counts=Counts(clips_seen=rows, clips_written=rows),
        reasons={},
        statistics={},
    )


def write_latents(store: Store, units: Mapping[str, int], *columns: TokenizerColumn) -> Dataset:
    """Write a dataset of latents with a number of clips for each unit, or add units to it."""
    dataset = open_dataset(store, head(*(columns or (WAN,))))
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="a test")
    for unit, count in units.items():
        log.append([write_unit(store, dataset, unit, count)])
    return dataset


def write_texts(store: Store, parent: Store, units: Mapping[str, int], **options: Any) -> Dataset:
    """Write the text embeddings of units of a dataset, or add units to them."""
    dataset = open_dataset(store, text_head(read_dataset(parent), TEXT))
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="a test")
    manifest = read_manifest(parent)
    for unit, count in units.items():
        theirs = manifest.unit(unit)
        assert theirs is not None
        record = write_unit(store, dataset, unit, count, **options)
        log.append([replace(record, sources=(state_of(theirs),))])
    return dataset


def files_of(folder: Any) -> dict[str, bytes]:
    """Return all files under a folder by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
