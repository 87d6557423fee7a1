"""Workers ask of a cluster no more than lets all of them start."""

import pytest

from pipeline.cluster import Cluster
from pipeline.evaluation.workers import picture_jobs, room, worker_share
from pipeline.records import WorkUnit


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads", "count"),
    [
        (2, 0, 1, 2),
        (2, 0, 1, 5),
        (8, 0, 4, 2),
        (8, 0, 4, 3),
        (8, 1, 1, 1),
        (8, 2, 1, 3),
        (8, 2, 1, 4),
    ],
)
def test_all_workers_fit(cpus: int, gpus: int, threads: int, count: int) -> None:
    cluster = Cluster(cpus, gpus, is_own=True)
    asked = worker_share(cluster, threads, count, on_gpu=gpus > 0)
    assert asked["num_cpus"] * count <= cpus
    if gpus:
        per_gpu = int(1 / asked["num_gpus"] + 1e-9)
        assert per_gpu * gpus >= count, "a fraction left on each of two GPUs helps nobody"
        assert asked["num_gpus"] <= 1


def test_a_worker_has_a_gpu_or_its_threads() -> None:
    cluster = Cluster(8, 2, is_own=True)
    assert room(cluster, 3, on_gpu=True) == 2
    assert room(cluster, 3, on_gpu=False) == 2
    assert room(Cluster(1, 0, is_own=True), 4, on_gpu=False) == 1
    assert worker_share(cluster, 3, 2, on_gpu=False) == {"num_cpus": 3, "num_gpus": 0}


def test_units_that_cannot_give_a_picture_draw_none() -> None:
    units = [WorkUnit(unit=str(n)) for n in range(4)]
    assert picture_jobs(units, 2) == list(zip(units, [2, 2, 0, 0], strict=True))
