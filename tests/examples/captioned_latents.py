"""Latents in the shape of Wan's autoencoder that follow their captions, and texts beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.embeddings import Embedding, embedded_rows
from pipeline.dataset.metadata import new_dataset
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
TEXTS = TokenizerColumn(
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
        write_rows(latents, WAN, f"u-{number}", rows)
    for number in (0, 1):
        clips = _clips(f"u-{number}")
        batch = embedded_rows(clips, {"text": by_caption}, clip_schema([TEXTS]))
        write_rows(texts, TEXTS, f"u-{number}", pa.Table.from_batches([batch]))


def _clips(unit: str) -> list[Clip]:
    clips = [make_clip(unit, n) for n in range(CLIPS // 2)]
    return [replace(clip, caption=CAPTIONS[n % 3]) for n, clip in enumerate(clips)]


def write_rows(
    store: Store,
    column: TokenizerColumn,
    unit: str,
    rows: pa.Table,
    *,
    bucket: str = BUCKET,
    clip: Mapping[str, Any] = IDENTITY["clip"],
) -> None:
    """Write the rows of a unit into a dataset of one column, new or not."""
    makers = "embedders" if column.kind == "embeddings" else "tokenizers"
    facts = {"kind": column.kind, "channels": 16, "codebook_size": None, "levels": []}
    made = {column.name: {"weights": "made", "config": {}, "facts": facts}}
    dataset = new_dataset((column,), {"clip": clip, "tokenizers": {}, makers: made})
    schema = clip_schema([column])
    with PartWriter(store, schema, unit=unit, bucket=bucket, row_group_bytes=3000) as writer:
        writer.add(rows)
        parts = writer.publish()
    record = UnitRecord(
        unit=unit,
        sources=(unit,),
        parts=parts,
        quarantine=None,
        counts=Counts(clips_seen=len(rows), clips_written=len(rows)),
        reasons={},
        statistics={bucket: row_statistics(rows, [column], {})},
    )
    write_log(store, [record], dataset)
