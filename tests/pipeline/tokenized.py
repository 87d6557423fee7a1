"""Datasets with real tokens, made by the stages of a job without Ray."""

import shutil
from pathlib import Path

from pipeline.config.job import JobConfig
from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.metadata import code_levels, open_dataset
from pipeline.job.setup import open_tokenizers
from pipeline.sources.planning import plan_units
from pipeline.stages.commit import commit_unit
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import Closing
from pipeline.stages.tokenize import TokenizeStage
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import job_arithmetic
from pipeline.tokenizers.models import open_encoders
from pipeline.tokenizers.sound_encoders import same_sound_encoder

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
    tokenizers = open_tokenizers(config)
    columns, head = tokenizers.columns, tokenizers.dataset(config)
    open_dataset(store, head)
    log = CommitLog(store, fingerprint=head.fingerprint)
    encoders = open_encoders(config.tokenizers, columns, tokenizers.digests, "cpu")
    sounds = {
        spec.name: same_sound_encoder(spec, column, "cpu")
        for spec in (config.audio.encoders if config.audio else ())
        for column in head.side
        if column.name == spec.name
    }
    one_in = config.tokenize.decode_back_one_in
    stage = TokenizeStage(encoders, decode_back_one_in=one_in, side=head.side, sounds=sounds)
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
