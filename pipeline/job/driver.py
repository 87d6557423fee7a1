"""The driver: open the job, run passes over the remaining units, write the log, manifest, summary.

    config ─► open_job ─► pass … pass ─► manifest ─► Summary

The driver holds the plan entry of each unit and, for some seconds, its record. It holds nothing per
clip. A killed driver loses the units that the log does not hold yet; the next run does them again
and writes the same rows. The summary's verdict comes from the plan and the log at the end of the
run, not from what Ray reported on the way.
"""

import logging
import time
from collections import Counter
from contextlib import ExitStack
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from pipeline.config.embed import EmbedConfig
from pipeline.config.job import JobConfig
from pipeline.dataset.card import write_card
from pipeline.dataset.examples import read_examples
from pipeline.dataset.log.manifest import write_manifest
from pipeline.dataset.metadata import code_levels
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.tally import Tally
from pipeline.errors import OverBudget
from pipeline.formatting import counted, labelled
from pipeline.job.log_buffer import LogBuffer
from pipeline.job.metrics.run_metrics import JobMetrics
from pipeline.job.progress import Progress
from pipeline.job.setup import Job, open_job
from pipeline.job.shared_output import missing_part, require_shared
from pipeline.job.summary import Summary, config_path, over_budget, write_config, write_summary
from pipeline.job.supervision.health import StallWatch
from pipeline.job.supervision.node_history import NodeHistory
from pipeline.records import WorkUnit

if TYPE_CHECKING:
    from pipeline.cluster import Cluster
    from pipeline.job.resources import Allocation
    from pipeline.job.workers import WorkerSettings

TASKS_PER_PASS: Final = 10_000
"""Maximum decode tasks of one pass. Ray makes their blocks before it begins, at a millisecond and
some KiB of memory each."""

_BACKOFF_S: Final = 1.0
"""Seconds before another pass for each failure of a unit, in which a failing store can recover."""

_ATTEMPTS_TOGETHER: Final = 2
"""Failed attempts after which the samples of a unit are tried one by one."""

_NOT_REACHED = "planned again while the job ran; run it again"


def run(config: JobConfig | EmbedConfig, progress: Progress) -> Summary:
    """Tokenize or embed what the output does not hold yet.

    Args:
        config: the job; relative paths start at the working directory.
        progress: receives the events of the run.

    Raises:
        ConfigError: the configuration does not fit the sources, the output or the cluster; no work
            was done.
        RayNotStarted: Ray did not start on this machine.
        StageStalled: no actor of a stage runs; committed units remain.
        StoreError: the output failed for longer than retries can bridge; committed units remain.
        OverBudget: too many samples went to the quarantine; committed units remain.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        ray = cache(lambda: _open_ray(config, stack, progress))
        if isinstance(config, JobConfig):
            job = open_job(config, beside=ray)
        else:
            from pipeline.job.embedding import open_embedding

            job = open_embedding(config)
        for note in job.notes:
            progress.say(note)
        passes = _Passes(job, progress)
        remaining = job.remaining()
        if remaining:
            write_config(job.store, job.run, job.config)
            passes.run(remaining, ray())
    total = Tally.of(write_manifest(job.store))
    summary = Summary(
        output=job.config.output.uri,
        run=job.run,
        planned=len(job.plan),
        committed_before=job.committed_before,
        done=passes.buffer.ours,
        lost_race=passes.buffer.num_lost,
        failed={unit.unit: passes.reasons.get(unit.unit, _NOT_REACHED) for unit in job.remaining()},
        total=total,
        seconds=time.monotonic() - began,
        examples=read_examples(job.store, passes.buffer.ours),
        tokenizers_waited=passes.tokenizers_waited,
        retried=passes.num_retried,
        untrained=job.untrained,
        troubles=passes.troubles,
    )
    if remaining:
        write_card(job.store, job.dataset, total)
        write_summary(job.store, summary)
    return summary


def _open_ray(config: JobConfig | EmbedConfig, stack: ExitStack, progress: Progress) -> "Cluster":
    """Connect to Ray until the stack is closed, if the cluster can do the job.

    A new output has no fingerprint yet, so it takes the job with other settings.
    """
    from pipeline.cluster import connect

    progress.say(labelled("starting", "Ray"))
    cluster = stack.enter_context(connect())
    progress.say(labelled("ray", cluster))
    _allocate(config, cluster, units=1)
    return cluster


def _allocate(config: JobConfig | EmbedConfig, cluster: "Cluster", units: int) -> "Allocation":
    """Divide the cluster for a pass of some units.

    Raises:
        ConfigError: the cluster cannot do the job as its settings say.
    """
    from pipeline.job.precision import require_fast_precision
    from pipeline.job.resources import allocate

    allocation = allocate(
        config, cpus=cluster.cpus, gpus=cluster.gpus, units=units, may_grow=not cluster.is_own
    )
    require_fast_precision(config, allocation.device)
    return allocation


class _Passes:
    """Passes over the remaining units, and what happened in them.

    Attributes:
        buffer: appends records to the log.
        reasons: unit → why it failed last.
        num_retried: failed attempts of units that got another one.
    """

    def __init__(self, job: Job, progress: Progress) -> None:
        self._job = job
        self._progress = progress
        self.buffer = LogBuffer(job.log, job.config.commit.log_every_s)
        self.reasons: dict[str, str] = {}
        self.num_retried = 0
        self._attempts = job.config.commit.unit_attempts
        self._one_by_one_after = max(1, min(_ATTEMPTS_TOGETHER, self._attempts - 1))
        self._failures: Counter[str] = Counter()
        self._watch = StallWatch(job.config.max_wait_s)
        self._history = NodeHistory()
        self._held: list[UnitRecord] = []
        self._sound = False
        """Whether a unit was done of which not all samples failed alike."""
        self._waiting_s = self._busy_s = 0.0
        """Seconds of all tokenizer actors."""

    @property
    def tokenizers_waited(self) -> float | None:
        """Return the share of their time that tokenizer actors waited for clips."""
        seconds = self._waiting_s + self._busy_s
        return self._waiting_s / seconds if seconds else None

    @property
    def troubles(self) -> list[str]:
        """Return a line for each node that is at fault."""
        return [*map(str, self._watch.troubles.values()), *self._history.lines()]

    def run(self, units: list[WorkUnit], cluster: "Cluster") -> None:
        """Run passes until no unit remains that can be retried."""
        from pipeline.job.metrics.ray_metrics import RayRecorder

        failures, remaining = self._failures, units
        recorder = RayRecorder(self._job.run)
        metrics = JobMetrics(recorder, len(self._job.plan), self._attempts, failures)
        require_shared(self._job.store, config_path(self._job.run))
        while units:
            units.sort(key=lambda unit: failures[unit.unit])  # new units before retried ones
            metrics.begin(len(units), len(remaining), self.buffer)
            self._pass(units, cluster, metrics)
            # The plan is cut again: another driver may have committed units, or some files of
            # a run.
            remaining = self._job.remaining()
            units = [unit for unit in remaining if failures[unit.unit] < self._attempts]
            if units:
                counts = [count for unit in units if (count := failures[unit.unit])]
                self._progress.say(
                    labelled(
                        "next pass",
                        f"{counted(len(units), 'unit remains', 'units remain')},"
                        f" {len(counts)} retried",
                    )
                )
                time.sleep(_BACKOFF_S * max(counts, default=0))

    def _pass(self, units: list[WorkUnit], cluster: "Cluster", metrics: JobMetrics) -> None:
        from pipeline.job.bundles import bundled
        from pipeline.job.collector import BatchDone, InFlight, Said, UnitDone, UnitFailed
        from pipeline.job.graph import run_pass

        allocation = _allocate(self._job.config, cluster, len(units))
        if allocation.cpus > cluster.cpus:
            self._progress.say(
                f"waiting    the actors ask for {allocation.cpus:g} CPUs and the cluster has"
                f" {cluster.cpus:g}: the others wait for nodes"
            )
        names = ", ".join(column.name for column in self._job.tokenizers.columns)
        self._progress.say(labelled("starting", allocation.starts(names)))
        # A unit that runs alone takes no other one along. Without a retry, none can run alone.
        alone = self._failures if self._attempts > 1 else {unit.unit for unit in units}
        bundles = list(islice(bundled(units, alone, allocation.decode_actors), TASKS_PER_PASS))
        events = run_pass(
            bundles,
            worker_settings(self._job, allocation.device),
            allocation,
            metrics.recorder,
            self._watch,
            self._history,
            careful=any(self._failures[unit.unit] for bundle in bundles for unit in bundle),
            one_by_one={
                unit for unit, count in self._failures.items() if count >= self._one_by_one_after
            },
        )
        self._progress.begin(len(units))
        try:
            for event in events:
                if isinstance(event, BatchDone):
                    self._progress.clips(event.num_clips)
                    self._waiting_s += event.waiting_s
                    self._busy_s += event.busy_s
                elif isinstance(event, UnitDone):
                    if problem := missing_part(self._job.store, event.record):
                        self._unit_failed(event.record.unit, f"commit: {problem}")
                        continue
                    self._progress.unit(failed=False)
                    metrics.unit_done()
                    self._failures.pop(event.record.unit, None)
                    self._done(event.record)
                elif isinstance(event, UnitFailed):
                    self._unit_failed(event.unit, event.reason)
                elif isinstance(event, Said):
                    self._progress.say(event.line)
                elif isinstance(event, InFlight):
                    metrics.in_flight(event.open_units, event.rows_held)
                self.buffer.flush_if_due()
                metrics.report_if_due(self.buffer)
                self._check_budget()
                self._progress.tick()
            for record in self._held:  # too few to tell that the sources are away
                self.buffer.add(record)
            self._held = []
        finally:
            self._progress.end()
            # Also after an error: the next run need not do again what is written.
            self.buffer.flush()
            metrics.in_flight(0, 0)
            metrics.report(self.buffer)
        self._check_budget()

    def _done(self, record: UnitRecord) -> None:
        """Hold a unit back if all its samples or clips failed alike, until another one did not."""
        counts = record.counts
        no_sample = 0 < counts.samples_quarantined == counts.samples_read
        no_clip = 0 < counts.clips_quarantined == counts.clips_seen
        reasons = {*record.reasons, *(reason for held in self._held for reason in held.reasons)}
        limit = self._job.config.max_alike_units
        if limit and not self._sound and (no_sample or no_clip) and len(reasons) == 1:
            self._held.append(record)
            if len(self._held) == limit:
                [reason] = reasons
                what = "samples" if no_sample else "clips"
                check = (
                    "that source.uri can be read from the workers" if no_sample else "tokenizers"
                )
                raise OverBudget(
                    f"all {what} of the first {len(self._held)} units are quarantined as {reason},"
                    f" so max_alike_units = {limit} stops the job and commits none of them; check"
                    f" {check}; or set max_alike_units to null"
                )
            return
        self._sound = True
        for each in (*self._held, record):
            self.buffer.add(each)
        self._held = []

    def _unit_failed(self, unit: str, reason: str) -> None:
        self._progress.unit(failed=True)
        self._failures[unit] += 1
        self.reasons[unit] = reason
        attempt = self._failures[unit]
        self.num_retried += attempt < self._attempts
        self._progress.say(f"attempt    {unit}: {attempt} of {self._attempts} failed: {reason}")

    def _check_budget(self) -> None:
        if reason := over_budget(self.buffer.ours, self._job.config.max_quarantine_rate):
            raise OverBudget(reason)


def worker_settings(job: Job, device: str) -> "WorkerSettings":
    """Return what every worker of a job is told; `device` is that of the tokenizers."""
    from pipeline.job.workers import WorkerSettings

    config = job.config
    if isinstance(config, JobConfig):
        # Units carry their own URIs, and a long list of sources would travel to every process.
        source = config.source.model_copy(update={"uri": config.source.uri[:1]})
        config = config.model_copy(update={"source": source})
    return WorkerSettings(
        config=config,
        columns=job.tokenizers.columns,
        digests=job.tokenizers.digests,
        levels=code_levels(job.tokenizers.identity),
        side=job.dataset.side,
        device=device,
        proof=config_path(job.run),
        forgets=tuple(job.log.forgets),
        log_level=min(logging.getLogger("pipeline").getEffectiveLevel(), logging.INFO),
    )
