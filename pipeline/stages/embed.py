"""Embed the captions of one batch row: clips in, the finished rows of the sibling out.

A caption that cannot be embedded fails its unit, with the reason: a sibling has all rows of its
parent or none of a unit.
"""

import time
from collections.abc import Sequence

from pipeline.dataset.embeddings import Embedding, caption_of, embedded_rows
from pipeline.dataset.schema import clip_schema, packed_schema
from pipeline.stages.messages import BatchRow, Payload, PayloadHeader, encode_rows
from pipeline.tokenizers.text_encoder import TextEncoder


class EmbedStage:
    """Holds the text encoders of a dataset.

    Args:
        encoders: one per embedder, in the order of the schema's columns.
    """

    def __init__(self, encoders: Sequence[TextEncoder]) -> None:
        self._encoders = list(encoders)
        self._schema = packed_schema(clip_schema([encoder.column for encoder in encoders]))
        self._last: dict[str, dict[str, Embedding]] = {e.column.name: {} for e in encoders}
        """Embeddings of the previous row by column and caption: a sample can go on in the next."""

    def __call__(self, batch: BatchRow) -> Payload:
        """Embed each caption of a row once.

        Raises:
            ValueError: an embedding is not finite.
        """
        header = batch.header
        captions = list(dict.fromkeys(map(caption_of, header.clips)))
        timings, found = {}, {}
        for encoder in self._encoders:
            began = time.monotonic()
            name = encoder.column.name
            last = self._last[name]
            found[name] = {text: last.get(text) or encoder(text) for text in captions}
            timings[f"tokenize {name}"] = round(time.monotonic() - began, 6)
        self._last = found
        payload = PayloadHeader(
            unit=header.unit,
            seq=header.seq,
            digest=header.digest(),
            bucket=header.bucket,
            clip_ids=tuple(clip.clip_id for clip in header.clips),
            timings=timings,
        )
        return Payload(payload, encode_rows(embedded_rows(header.clips, found, self._schema)))
