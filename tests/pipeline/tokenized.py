"""Datasets with real tokens, made by the workers of a job without Ray."""

import shutil
from dataclasses import replace
from pathlib import Path

from pipeline.config.job import JobConfig
from pipeline.job.collector import UnitDone, UnitFailed
from pipeline.job.driver import worker_settings
from pipeline.job.setup import open_job
from pipeline.storage.store import Store
from tests.pipeline.in_process import run_pass

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
    for event in run_pass([job.remaining()], settings):
        assert not isinstance(event, UnitFailed), event
        if isinstance(event, UnitDone):
            job.log.append([event.record])
    return job.store
