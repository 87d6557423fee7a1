"""Latents in the shape of Wan's autoencoder that follow their captions, and texts beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.embeddings import Embedding, embedded_rows
from pipeline.dataset.metadata import Dataset, new_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.row_statistics import row_statistics
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.records import Clip
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import IDENTITY, write_log
from tests.pipeline.units import make_clip

CLIPS = 24
BUCKET = "5x32x32"
CAPTIONS = ["red", "a green ball", "two blue balls fall"]
CHANNELS = 12
WAN = TokenizerColumn(
    name="wan",
    kind="latents",
    dtype="float16",
    axes=("c", "t", "h", "w"),
    model="AutoencoderKLWan",
    fingerprint="0" * 32,
)
TEXT = TokenizerColumn(
    name="text",
    kind="embeddings",
    dtype="float16",
    axes=("n", "c"),
    model="UMT5EncoderModel",
    fingerprint="1" * 32,
)


def embeddings() -> dict[str, Embedding]:
    """Return random embeddings, one token for each word."""
    rng = np.random.default_rng(1)
    words = {caption: caption.split() for caption in CAPTIONS}
    return {
        caption: Embedding(
            ids=tuple(range(len(tokens))),
            cells=rng.standard_normal((len(tokens), CHANNELS)).astype("<f2"),
        )
        for caption, tokens in words.items()
    }


def latents_of(clips: Sequence[Clip]) -> NDArray[np.float16]:
    """Return [N, 16, 2, 4, 4]: a pattern for each caption, and a little noise."""
    rng = np.random.default_rng(2)
    patterns = dict(zip(CAPTIONS, rng.standard_normal((3, 16, 2, 4, 4)), strict=True))
    means = np.stack([patterns[clip.caption or ""] for clip in clips])
    return (means + 0.1 * rng.standard_normal(means.shape)).astype("<f2")


def write_captioned(latents: Store, texts: Store) -> None:
    """Write both datasets, the clips of two units in each."""
    by_caption = embeddings()
    for number in (1, 0):
        clips = _clips(f"u-{number}")
        schema = clip_schema([WAN])
        rows = pa.Table.from_batches([clip_rows(clips, {"wan": latents_of(clips)}, schema)])
        _write(latents, _head(WAN, "tokenizers"), f"u-{number}", rows)
    for number in (0, 1):
        clips = _clips(f"u-{number}")
        batch = embedded_rows(clips, {"text": by_caption}, clip_schema([TEXT]))
        _write(texts, _head(TEXT, "embedders"), f"u-{number}", pa.Table.from_batches([batch]))


def _clips(unit: str) -> list[Clip]:
    clips = [make_clip(unit, n) for n in range(CLIPS // 2)]
    return [replace(clip, caption=CAPTIONS[n % 3]) for n, clip in enumerate(clips)]


def _head(column: TokenizerColumn, makers: str) -> Dataset:
    made: Mapping[str, object] = {column.name: {"weights": "made", "config": {}}}
    identity = {"clip": IDENTITY["clip"], "tokenizers": {}, makers: made}
    return new_dataset((column,), identity)


def _write(store: Store, dataset: Dataset, unit: str, rows: pa.Table) -> None:
    schema = clip_schema(dataset.tokenizers)
    with PartWriter(store, schema, unit=unit, bucket=BUCKET, row_group_bytes=3000) as writer:
        writer.add(rows)
        parts = writer.publish()
    record = UnitRecord(
        unit=unit,
        sources=(unit,),
        parts=parts,
        quarantine=None,
        counts=Counts(clips_seen=len(rows), clips_written=len(rows)),
        reasons={},
        statistics={BUCKET: row_statistics(rows, dataset.tokenizers, {})},
    )
    write_log(store, [record], dataset)
