"""Rows of a dataset of text embeddings: those of other clips, with other columns.

| column | holds |
| --- | --- |
| `N` | embedding of the caption [tokens, channels], without padding |
| `N_shape` | its two dimensions |
| `N_ids` | ids of the tokens, the special ones included |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dataset.schema import CLIP_FIELDS
from pipeline.records import Clip


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one text."""

    ids: tuple[int, ...]
    """Ids of the tokens."""
    cells: NDArray[Any]
    """Array [tokens, channels] of the stored dtype."""


def embedded_text(clip: Clip) -> str:
    """Return the text that is embedded for a clip: an absent caption is the empty one."""
    return clip.caption or ""


def embedded_rows(
    clips: Sequence[Clip], found: Mapping[str, Mapping[str, Embedding]], schema: pa.Schema
) -> pa.RecordBatch:
    """Return the rows of clips, with each embedding once.

    Args:
        clips: N clips of one bucket.
        found: embeddings by column and caption.
        schema: packed schema of the parts.
    """
    columns: dict[str, Any] = {
        field.name: [getattr(clip, field.name) for clip in clips] for field in CLIP_FIELDS
    }
    captions = [embedded_text(clip) for clip in clips]
    for name, by_caption in found.items():
        places = {caption: n for n, caption in enumerate(dict.fromkeys(captions))}
        values = pa.array([by_caption[text].cells.tobytes() for text in places], pa.binary())
        indices = pa.array([places[caption] for caption in captions], pa.int32())
        columns[name] = pa.DictionaryArray.from_arrays(indices, values)
        columns[f"{name}_shape"] = [np.shape(by_caption[text].cells) for text in captions]
        columns[f"{name}_ids"] = [by_caption[text].ids for text in captions]
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def embedding_shapes(ids: pa.ChunkedArray, made_by: Mapping[str, Any]) -> list[list[int]]:
    """Return the shape that the embedding of each row must have.

    Args:
        ids: column `N_ids`.
        made_by: entry of the embedder in the dataset's identity.
    """
    counts = pc.list_value_length(ids).to_pylist()
    return [[min(n, 1) if made_by["pooled"] else n, made_by["width"]] for n in counts]
