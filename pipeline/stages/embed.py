"""Embed the captions of one batch row: clips in, the finished rows of the sibling out.

A caption that cannot be embedded fails its unit, with the reason: a sibling has all rows of its
parent or none of a unit.
"""

import time
from collections.abc import Sequence

from pipeline.dataset.embeddings import Embedding, embedded_rows, embedded_text
from pipeline.dataset.schema import clip_schema, packed_schema
from pipeline.errors import one_line
from pipeline.stages.messages import BatchRow, Payload, PayloadHeader, encode_rows
from pipeline.stages.tokenize import TokenizerBroken
from pipeline.tokenizers.text_encoder import PROBE, TextEncoder


class EmbedStage:
    """Holds the text encoders of a dataset.

    Args:
        encoders: one per embedder, in the order of the schema's columns.
    """

    def __init__(self, encoders: Sequence[TextEncoder]) -> None:
        self._encoders = list(encoders)
        self._schema = packed_schema(clip_schema([encoder.column for encoder in encoders]))
        self._last: dict[str, dict[str, Embedding]] = {e.column.name: {} for e in encoders}
        """Embeddings of the previous row by column and caption: its last sample can continue."""

    def prove(self) -> None:
        """Embed a fixed text; an error shows that the encoders or their device are broken."""
        for encoder in self._encoders:
            encoder(PROBE)

    def __call__(self, batch: BatchRow) -> Payload:
        """Embed each caption of a row once.

        Raises:
            TokenizerBroken: an encoder also fails on a fixed text.
            ValueError: an embedding is not finite.
        """
        header = batch.header
        captions = list(dict.fromkeys(map(embedded_text, header.clips)))
        timings, found = {}, {}
        for encoder in self._encoders:
            began = time.monotonic()
            name = encoder.column.name
            last = self._last[name]
            found[name] = {text: last.get(text) or self._embed(encoder, text) for text in captions}
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

    def _embed(self, encoder: TextEncoder, text: str) -> Embedding:
        try:
            return encoder(text)
        except ValueError:
            raise
        except Exception as error:
            try:
                self.prove()
            except Exception as other:
                reason = f"{one_line(error)}; and on {PROBE!r}: {one_line(other)}"
                raise TokenizerBroken(reason) from error
            raise
