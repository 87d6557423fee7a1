"""The driver of a job with its workers in the same process, one after another: no Ray.

All but the graph of Ray is real: what the driver plans, retries, logs and says, and the workers.
"""

import pickle
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.cluster import Cluster
from pipeline.dataset.records import UnitRecord
from pipeline.job.bundles import Bundle
from pipeline.job.collector import BatchDone, Event, UnitDone, UnitFailed
from pipeline.job.metrics.metrics import Metric
from pipeline.job.workers import DecodeWorker, TokenizeWorker, WorkerSettings, commit_blocks
from pipeline.records import from_json, to_json
from pipeline.stages.messages import ABORTED, BATCH, Aborted
from pipeline.tokenizers.arithmetic import job_arithmetic


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Let `pipeline.job.driver.run` work in this process, until the patch is undone."""
    # In the place of a module that imports Ray Data, which takes three seconds.
    patch.setitem(sys.modules, "pipeline.job.graph", SimpleNamespace(run_pass=run_pass))  # type: ignore[arg-type]
    patch.setattr("pipeline.cluster.connect", _connect)
    patch.setattr("pipeline.job.driver.require_shared", lambda *_: None)
    patch.setattr("pipeline.job.metrics.ray_metrics.RayRecorder", lambda _: Unheard())


@contextmanager
def _connect() -> Iterator[Cluster]:
    yield Cluster(8, 0, is_own=True)


def run_pass(
    bundles: Sequence[Bundle],
    settings: WorkerSettings,
    *_: Any,
    one_by_one: Collection[str] = (),
    **__: Any,
) -> Iterator[Event]:
    """Do what `pipeline.job.graph.run_pass` does, without Ray."""
    settings = pickle.loads(pickle.dumps(settings))  # as workers of Ray get them
    with job_arithmetic(None):  # restores the number of threads, which the worker sets
        tokenize = TokenizeWorker(settings, Unheard())
        with closing(DecodeWorker(settings, Unheard())) as decode:
            for unit in (unit for bundle in bundles for unit in bundle):
                alone = np.array([unit.unit in one_by_one])
                row = {"unit": np.array([to_json(unit).decode()]), "one_by_one": alone}
                payloads = []
                for payload in map(tokenize, decode(row)):
                    payloads.append(payload)
                    [told] = payload.drop_columns(["rows"]).to_pylist()
                    if told["kind"] == BATCH:
                        yield BatchDone(told["num_clips"], told["waiting_s"], told["busy_s"])
                if told["kind"] == ABORTED:
                    yield UnitFailed(unit.unit, from_json(Aborted, told["header"]).reason)
                    continue
                record = commit_blocks(unit, iter([payloads[-1], *payloads[:-1]]), settings)
                assert isinstance(record, UnitRecord), record
                yield UnitDone(record)
        tokenize.stage.close()


class Unheard:
    """A recorder of metrics that forgets them."""

    def add(self, metric: Metric, value: float, **labels: str) -> None: ...

    def set(self, metric: Metric, value: float, **labels: str) -> None: ...
