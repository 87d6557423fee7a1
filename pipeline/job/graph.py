"""The Ray graph of one pass: units in, committed records or reasons out.

    units ─► decode (actors) ─► tokenize (actors) ─► references ─► commit (tasks) ─► Event …

No other module uses Ray Data. Tests kill processes and nodes to check each of these rules:

- `target_max_block_size = 1` makes every row a block of its own: rows are never split or merged.
- Small units share a task and their rows a block (`pipeline.job.bundles`); retried units do not.
- The driver handles references only (`pipeline.job.collector`).
- Rows arrive in any order, and twice after an actor was lost. The first reference of a number
  counts; the commit's digests decide whether rows of two attempts fit together.
- At most `open_units` commits run. Then the driver pulls nothing, and Ray Data's own back-pressure
  stops the actors.
- Retries are bounded (`max_task_retries`) and lost blocks are tolerated (`max_errored_blocks`). The
  collector notices what is missing: every unit leaves as `UnitDone` or `UnitFailed`.
"""

import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.config.embed import EmbedConfig
from pipeline.config.job import JobConfig
from pipeline.job.bundles import Bundle, bundle_row, decoding, tokenizing
from pipeline.job.collector import (
    TASK_RETRIES,
    Collector,
    Event,
    commit_references,
    not_on,
)
from pipeline.job.metrics.metrics import DECODE, TOKENIZE, Recorder
from pipeline.job.references import Stopper
from pipeline.job.resources import Allocation
from pipeline.job.supervision.desk import open_desk
from pipeline.job.supervision.health import ActorPool, StallWatch
from pipeline.job.supervision.node_history import NodeHistory
from pipeline.job.supervision.supervised import supervised
from pipeline.job.workers import GPU_CALLS, DecodeWorker, TokenizeWorker, WorkerSettings

_FIRST_WAIT_S: Final = 6 * 3600
"""Seconds beyond `max_wait_s` after which Ray Data ends a pass that does not progress. Waiting for
the first nodes counts."""


def run_pass(
    bundles: Sequence[Bundle],
    settings: WorkerSettings,
    allocation: Allocation,
    recorder: Recorder,
    watch: StallWatch,
    history: NodeHistory,
    *,
    careful: bool = False,
    one_by_one: Collection[str] = (),
) -> Iterator[Event]:
    """Run units through the graph. Ray must be connected.

    Args:
        bundles: the units of the pass; those of a bundle share a task.
        settings: sent to every worker.
        allocation: the actors, and what each asks of the cluster.
        recorder: sent to every actor.
        watch: told of the actors that run, in all passes.
        history: told of what nodes do, in all passes.
        careful: whether a tokenizer has only one row in flight, so that a row that kills its actor
            takes no healthy rows along; for a pass with retried units.
        one_by_one: names of the units in which a sample that fails is given up alone.

    Yields:
        Events; each unit exactly once as `UnitDone` or `UnitFailed`.

    Raises:
        StageStalled: no actor of a stage runs, for longer than the configuration allows.
    """
    desk = open_desk()
    context = _quiet_context(settings.config.max_wait_s + _FIRST_WAIT_S)
    with DataContext.current(context), warnings.catch_warnings():
        # The only way to set `max_task_retries`; this package's range of Ray ends before 2.64.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        dataset = _dataset(
            bundles, settings, allocation, (settings, recorder, desk), history, careful, one_by_one
        )
    watch.begin(_pools(allocation))
    units = [unit for bundle in bundles for unit in bundle]
    collector = Collector(
        units, settings, commit_references, allocation.commit_cpus, desk, watch, history
    )
    try:
        yield from collector.collect(dataset.iter_internal_ref_bundles)
    finally:
        ray.kill(desk)  # actors that cannot start then end instead of trying again


def _pools(allocation: Allocation) -> list[ActorPool]:
    a = allocation
    return [
        ActorPool(DECODE, a.decode_actors, a.decode_cpus, 0.0),
        ActorPool(TOKENIZE, a.tokenize_actors, a.tokenize_cpus, a.tokenize_gpus),
    ]


def _quiet_context(no_progress_s: float) -> DataContext:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying also sets the deprecated fields
        context = DataContext.get_current().copy()
    context.target_max_block_size = 1
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = no_progress_s
    context.custom_execution_callback_classes = [Stopper]
    context.memory_usage_poll_interval_s = None  # reading it costs milliseconds in each task
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The collector reports lost blocks, with their reasons.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


def _dataset(
    bundles: Sequence[Bundle],
    settings: WorkerSettings,
    allocation: Allocation,
    arguments: tuple[Any, ...],
    history: NodeHistory,
    careful: bool,
    one_by_one: Collection[str],
) -> Dataset:
    rows = [bundle_row(bundle, one_by_one) for bundle in bundles]
    common: dict[str, Any] = {
        "fn_constructor_args": arguments,
        "batch_size": 1,
        "batch_format": "numpy",
        "max_task_retries": TASK_RETRIES,
    }
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset = dataset.map_batches(
        supervised(decoding(DecodeWorker), DECODE),
        # One bundle in flight: of two, one that kills its actor takes the other along.
        compute=ActorPoolStrategy(size=allocation.decode_actors, max_tasks_in_flight_per_actor=1),
        num_cpus=allocation.decode_cpus,
        **not_on(history.avoided()),
        **common,
    )
    return dataset.map_batches(
        supervised(tokenizing(TokenizeWorker), TOKENIZE),
        compute=tokenize_pool(settings.config, allocation, careful=careful),
        num_cpus=allocation.tokenize_cpus,
        num_gpus=allocation.tokenize_gpus,
        **common,
    )


def tokenize_pool(
    config: JobConfig | EmbedConfig, allocation: Allocation, *, careful: bool
) -> ActorPoolStrategy:
    """Return how Ray Data calls the tokenizers; on a GPU the rows of an actor overlap.

    Args:
        config: the job. Text encoders take one row at a time.
        allocation: the actors.
        careful: whether an actor has only one row in flight.
    """
    on_gpu = allocation.tokenize_gpus > 0
    calls = GPU_CALLS if on_gpu and not careful else 1
    return ActorPoolStrategy(
        size=allocation.tokenize_actors,
        max_tasks_in_flight_per_actor=1 if careful else 4 if on_gpu else 2,
        max_concurrent_calls_per_actor=calls,
        # Without it Ray runs the calls of an actor one after another.
        enable_true_multi_threading=calls > 1 and isinstance(config, JobConfig),
    )
