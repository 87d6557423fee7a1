"""Datasets with real tokens, made by the workers of a job without Ray."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from pipeline.config.job import JobConfig
from pipeline.dataset.records import UnitRecord
from pipeline.job.collector import UnitDone
from pipeline.job.driver import worker_settings
from pipeline.job.metrics import Metric
from pipeline.job.setup import open_job
from pipeline.job.workers import DecodeWorker, TokenizeWorker, WorkerSettings, commit_blocks
from pipeline.records import WorkUnit, to_json
from pipeline.stages.tokenize import TokenizeStage
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import job_arithmetic

VIDEOS = Path(__file__).parents[1] / "data/videos"


def hikers(folder: Path, **tokenize: object) -> Store:
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
        "tokenize": tokenize,
    }
    return tokenized(JobConfig.model_validate(values))


def tokenized(config: JobConfig) -> Store:
    """Do what a job does, without Ray: its own workers, one after another, in this process."""
    job = open_job(config)
    settings = replace(worker_settings(job, "cpu"), proof="")  # this is the driver's own node
    for done in pass_without_ray([job.remaining()], settings):
        job.log.append([done.record])
    return job.store


def pass_without_ray(
    bundles: Sequence[Sequence[WorkUnit]], settings: WorkerSettings, *_: object, **__: object
) -> Iterator[UnitDone]:
    """Do what `pipeline.job.graph.run_pass` does, with its own workers in this process."""
    with job_arithmetic(None):  # restores the number of threads, which the worker sets
        tokenize = TokenizeWorker(settings, Unheard())
        with closing(DecodeWorker(settings, Unheard())) as decode:
            for unit in chain.from_iterable(bundles):
                row = {"unit": np.array([to_json(unit).decode()]), "one_by_one": np.array([False])}
                *batches, last = map(tokenize, decode(row))
                record = commit_blocks(unit, iter([last, *batches]), settings)
                assert isinstance(record, UnitRecord), record
                yield UnitDone(record)
        assert isinstance(tokenize.stage, TokenizeStage)
        tokenize.stage.close()


class Unheard:
    """A recorder of metrics that forgets them."""

    def add(self, metric: Metric, value: float, **labels: str) -> None: ...

    def set(self, metric: Metric, value: float, **labels: str) -> None: ...
