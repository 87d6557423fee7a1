"""Ray runs two rows of a tokenizer on a GPU at once, which is not what it does by default."""

import threading
import warnings
from dataclasses import replace

import numpy as np
import ray.data
from ray.data import DataContext

from pipeline.config.embed import EmbedConfig
from pipeline.job.graph import tokenize_pool
from pipeline.job.resources import Allocation
from pipeline.job.workers import RayBatch
from tests.jobs.conftest import job

ON_GPU = Allocation(
    device="cuda",
    decode_actors=1,
    decode_cpus=1.0,
    tokenize_actors=1,
    tokenize_cpus=0.0,
    tokenize_gpus=1.0,
    commit_cpus=0.0,
)
JOB = job("unused", "unused")


class Meeting:
    """A call returns whether another one came while it ran."""

    def __init__(self) -> None:
        self._two = threading.Barrier(2)

    def __call__(self, batch: RayBatch) -> RayBatch:
        try:
            self._two.wait(20)
        except threading.BrokenBarrierError:
            return {"met": np.array([False])}
        return {"met": np.array([True])}


def test_two_rows_meet_in_a_tokenizer_on_a_gpu(cluster: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = DataContext.get_current().copy()
        context.target_max_block_size = 1
        context.enable_progress_bars = False
        with DataContext.current(context):
            rows = ray.data.from_items(list(range(4)), override_num_blocks=4).map_batches(
                Meeting,
                batch_size=1,
                batch_format="numpy",
                num_cpus=1,
                compute=tokenize_pool(JOB, ON_GPU, careful=False),
            )
            assert [row["met"] for row in rows.take_all()] == [True] * 4


def test_rows_follow_each_other_on_a_cpu_in_careful_passes_and_for_texts() -> None:
    on_cpu = replace(ON_GPU, device="cpu", tokenize_cpus=1.0, tokenize_gpus=0.0)
    for pool in (
        tokenize_pool(JOB, on_cpu, careful=False),
        tokenize_pool(JOB, ON_GPU, careful=True),
        tokenize_pool(EmbedConfig.model_construct(), ON_GPU, careful=False),
    ):
        assert not pool.enable_true_multi_threading
    careful = tokenize_pool(JOB, ON_GPU, careful=True)
    assert (careful.max_tasks_in_flight_per_actor, careful.max_concurrent_calls_per_actor) == (1, 1)
