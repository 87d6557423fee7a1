"""Sibling datasets with real embeddings, made by the stages of a job without Ray."""

from pathlib import Path
from typing import Any

from pipeline.config.embed import EmbedConfig
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.schema import clip_schema
from pipeline.job.embedding import open_embedding
from pipeline.stages.commit import commit_unit
from pipeline.stages.embed import EmbedStage
from pipeline.stages.messages import Closing
from pipeline.stages.rows import RowsStage
from pipeline.storage.store import Store
from pipeline.tokenizers.text_encoder import load_encoder


def embed_config(parent: str, weights: Path, output: str, **embedder: Any) -> EmbedConfig:
    """Return settings of one embedder, `text`."""
    spec = {"name": "text", "model": "transformers:UMT5EncoderModel", "weights": str(weights)}
    values = {"from": parent, "embedders": [spec | embedder], "output": {"uri": output}}
    return EmbedConfig.model_validate(values)


def embedded(config: EmbedConfig, units: int | None = None) -> tuple[Store, list[UnitRecord]]:
    """Do what a run does, without Ray, for some of the units that remain; return their records."""
    job = open_embedding(config)
    assert isinstance(job.config, EmbedConfig)
    columns = job.tokenizers.columns
    encoders = [
        load_encoder(spec, column, weights=digest.weights, device="cpu")
        for spec, column, digest in zip(
            job.config.embedders, columns, job.tokenizers.digests, strict=True
        )
    ]
    stage = EmbedStage(encoders)
    records = []
    with RowsStage(job.config.parent) as read:
        for unit in job.remaining()[:units]:
            *rows, closing = read(unit)
            assert isinstance(closing, Closing)
            payloads = [stage(row) for row in rows]
            record = commit_unit(
                unit,
                closing,
                ((payload.header, payload.rows) for payload in payloads),
                store=job.store,
                schema=clip_schema(columns),
                levels={},
            )
            job.log.append([record])
            records.append(record)
    return job.store, records
