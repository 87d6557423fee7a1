"""Datasets with real tokens, made by the stages of a job without Ray."""

import shutil
from pathlib import Path

from pipeline.config.job import JobConfig
from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.metadata import code_levels, new_dataset, open_dataset
from pipeline.sources.planning import plan_units
from pipeline.stages.commit import commit_unit
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import Closing
from pipeline.stages.tokenize import TokenizeStage
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import job_arithmetic
from pipeline.tokenizers.identity import identity, tokenizer_column
from pipeline.tokenizers.models import open_encoder, open_model, weights_digest

VIDEOS = Path(__file__).parents[1] / "data/videos"


def hikers(folder: Path) -> Store:
    """Tokenize one small video and one that is none, as loose files of one unit."""
    (folder / "in").mkdir()
    shutil.copy(VIDEOS / "hiker_tiny.mp4", folder / "in/hiker.mp4")
    (folder / "in/broken.mp4").write_bytes(b"no video at all")
    values = {
        "source": {"uri": [str(folder / "in")]},
        "clip": {"frames": 5, "height": 32, "width": 40, "fps": 4.0, "short": "drop"},
        "tokenizers": [
            {"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"},
            {"name": "kl", "model": "vidtok_kl_causal_488_8chn_tiny"},
        ],
        "output": {"uri": str(folder / "out")},
    }
    return tokenized(JobConfig.model_validate(values))


def tokenized(config: JobConfig) -> Store:
    """Do what a job does, without Ray."""
    store = Store(config.output.uri)
    models = {spec.name: open_model(spec) for spec in config.tokenizers}
    digests = {name: weights_digest(model) for name, model in models.items()}
    configs = {name: model.config for name, model in models.items()}
    columns = [
        tokenizer_column(spec, configs[spec.name], config.clip, digests[spec.name])
        for spec in config.tokenizers
    ]
    head = new_dataset(tuple(columns), identity(config, configs, digests), config.public())
    open_dataset(store, head)
    log = CommitLog(store, fingerprint=head.fingerprint)
    encoders = [
        open_encoder(spec, column, weights=digests[spec.name], device="cpu")
        for spec, column in zip(config.tokenizers, columns, strict=True)
    ]
    stage = TokenizeStage(encoders, side=head.side)
    parts = config.source, config.clip, config.decode
    with DecodeStage(*parts, row_clips=4, audio=config.audio, tracks=config.tracks) as decode:
        for unit in plan_units(config.source):
            *rows, closing = decode(unit)
            assert isinstance(closing, Closing)
            with job_arithmetic(config.tokenize.threads):  # another number changes last bits
                payloads = [stage(row) for row in rows]
            record = commit_unit(
                unit,
                closing,
                ((payload.header, payload.rows) for payload in payloads),
                store=store,
                schema=head.schema,
                levels=code_levels(head.identity),
            )
            log.append([record])
    return store
