"""The driver: plan, subtract the log, run passes, append to the log, write the manifest, reconcile.

    config ─► models, fingerprint ─► plan − log ─► pass … pass ─► manifest ─► Summary

Per unit the driver holds its plan entry and, for some seconds, its record; per clip nothing. What a
killed driver loses is what the log does not hold yet; the next run does those units again and comes
to the same rows. The verdict comes from the plan and the log as they stand at the end, never from
what Ray said on the way.
"""

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.job import JobConfig
from pipeline.dataset.card import write_card
from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.manifest import write_manifest
from pipeline.dataset.metadata import code_levels, open_dataset
from pipeline.dataset.tally import Tally
from pipeline.decode import DecodeLimits, clip_rules
from pipeline.errors import OverBudget
from pipeline.job.log_buffer import LogBuffer
from pipeline.job.metrics import Recorder
from pipeline.job.progress import Progress
from pipeline.job.remaining import subtract
from pipeline.job.run_metrics import JobMetrics
from pipeline.job.setup import Tokenizers, open_tokenizers, planned_units, with_absolute_paths
from pipeline.job.summary import Summary, over_budget, write_config, write_summary
from pipeline.records import WorkUnit, unit_sources
from pipeline.storage.store import Store
from pipeline.tokenizers.models import is_untrained

if TYPE_CHECKING:
    from pipeline.cluster import Cluster
    from pipeline.job.graph import PassArguments


_MIB = 1 << 20


_RAYS_OWN_FOLDER = "/runtime_resources/"


_BACKOFF_S = 1.0
"""Before another pass, times the failures so far: a store that failed gets a moment."""


_UNITS_PER_PASS = 10_000
"""Ray makes the blocks of a pass before it begins, at a millisecond and some KiB of memory each:
ten seconds of these, for hours of work."""


_NOT_REACHED = "planned anew while the job ran; run it again"


def run(config: JobConfig, progress: Progress) -> Summary:
    """Tokenize what the output does not hold yet.

    Args:
        config: the job; its paths are taken from the working directory.
        progress: told what happens.

    Raises:
        ConfigError: the configuration does not fit the sources, the output or the cluster; no work
            was done.
        StoreError: the output failed for longer than retries bridge; what the log holds stands.
        OverBudget: too many samples went to the quarantine; what the log holds stands.
    """
    began = time.monotonic()
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}"
    if _is_relative(config.output.uri) and _RAYS_OWN_FOLDER in str(Path.cwd()):
        progress.say(
            f"warning    output.uri = {config.output.uri}: a submitted job runs in a temporary"
            " folder of Ray, which deletes it; give an absolute path or a URI"
        )
    config = with_absolute_paths(config)
    plan = planned_units(config)
    untrained = [spec.name for spec in config.tokenizers if is_untrained(spec)]
    for name in untrained:
        progress.say(
            f"untrained  tokenizer {name} has no weights: it runs on a seeded initialisation, and"
            " its tokens mean nothing"
        )
    store = Store(config.output.uri, config.output.storage_options)
    if not config.output.alone:
        store.require_put_if_absent()
    tokenizers = open_tokenizers(config)
    dataset = open_dataset(store, tokenizers.dataset(config))
    log = CommitLog(store, fingerprint=dataset.fingerprint, run=run_id)
    buffer = LogBuffer(log, config.commit.log_every_s)
    job = _Job(config, run_id, plan, tokenizers, buffer, progress)
    left = job.left()
    covered = log.committed.sources
    committed_before = sum(covered.issuperset(unit_sources(unit)) for unit in plan)
    progress.say(
        f"plan       {len(plan)} units · {committed_before} committed · fingerprint"
        f" {dataset.fingerprint} · {config.output.uri}"
    )
    if left:
        write_config(store, run_id, config)
        job.work(left)
    total = Tally.of(write_manifest(store))
    summary = Summary(
        output=config.output.uri,
        run=run_id,
        planned=len(plan),
        committed_before=committed_before,
        done=job.buffer.ours,
        lost_race=job.buffer.num_lost,
        failed={unit.unit: job.reasons.get(unit.unit, _NOT_REACHED) for unit in job.left()},
        total=total,
        seconds=time.monotonic() - began,
        tokenizers_waited=job.tokenizers_waited,
        put_back=job.num_put_back,
        untrained=untrained,
    )
    if left:
        write_card(store, dataset, total)
        write_summary(store, summary)
    return summary


def _is_relative(uri: str) -> bool:
    return "://" not in uri and not Path(uri).is_absolute()


@dataclass(slots=True)
class _Job:
    config: JobConfig
    run: str
    plan: Sequence[WorkUnit]
    tokenizers: Tokenizers
    buffer: LogBuffer
    progress: Progress
    reasons: dict[str, str] = field(default_factory=dict)
    """Unit → why it failed last."""
    num_put_back: int = 0
    waiting_s: float = 0.0
    """Of all tokenizer actors."""
    busy_s: float = 0.0

    @property
    def tokenizers_waited(self) -> float | None:
        """Return the share of their time that tokenizer actors waited for clips."""
        whole = self.waiting_s + self.busy_s
        return self.waiting_s / whole if whole else None

    def left(self) -> list[WorkUnit]:
        """Return what the log, as far as this driver has read it, does not cover."""
        return subtract(
            self.plan,
            self.buffer.log.committed,
            files_per_unit=self.config.source.files_per_unit,
        )

    def work(self, units: list[WorkUnit]) -> None:
        """Run passes until nothing is left, or what is left has failed often enough."""
        from pipeline.cluster import connect
        from pipeline.job.ray_metrics import RayRecorder

        failures: Counter[str] = Counter()
        most = self.config.commit.unit_attempts
        metrics = JobMetrics(RayRecorder(self.run), planned=len(self.plan), attempts=most)
        left = units
        with connect() as cluster:
            while units:
                units.sort(key=lambda unit: failures[unit.unit])  # what failed waits for the rest
                metrics.begin(len(units), len(left), self.buffer)
                self._pass(units, cluster, failures, metrics)
                # Planned anew: what another driver committed meanwhile is done, too, and a run of
                # files of which it did some is cut again.
                left = self.left()
                units = [unit for unit in left if failures[unit.unit] < most]
                if units:
                    put_back = [n for unit in units if (n := failures[unit.unit])]
                    self.progress.say(
                        f"again      {len(units)} units go into another pass, {len(put_back)} of"
                        " them put back"
                    )
                    time.sleep(_BACKOFF_S * max(put_back, default=0))

    def _pass(
        self,
        units: list[WorkUnit],
        cluster: "Cluster",
        failures: Counter[str],
        metrics: JobMetrics,
    ) -> None:
        from pipeline.job.graph import BatchDone, InFlight, UnitDone, UnitFailed, run_pass
        from pipeline.job.resources import allocate

        allocation = allocate(
            self.config,
            cpus=cluster.cpus,
            gpus=cluster.gpus,
            units=len(units),
            may_grow=not cluster.is_own,
        )
        if allocation.cpus > cluster.cpus:
            self.progress.say(
                f"waiting    the actors ask for {allocation.cpus:g} CPUs, the cluster has"
                f" {cluster.cpus:g}: the rest waits for nodes"
            )
        now = units[:_UNITS_PER_PASS]
        careful = any(failures[unit.unit] for unit in now)
        arguments = self._arguments(allocation.device, metrics.recorder, careful=careful)
        self.progress.begin(len(units))
        try:
            for event in run_pass(now, arguments, allocation):
                if isinstance(event, BatchDone):
                    self.progress.clips(event.num_clips)
                    self.waiting_s += event.waiting_s
                    self.busy_s += event.busy_s
                elif isinstance(event, UnitDone):
                    self.progress.unit(failed=False)
                    metrics.unit_done(event.record.unit)
                    self.buffer.add(event.record)
                elif isinstance(event, UnitFailed):
                    self.progress.unit(failed=True)
                    metrics.unit_failed(event.unit)
                    self.progress.say(f"put back   {event.unit}: {event.reason}")
                    failures[event.unit] += 1
                    self.num_put_back += 1
                    self.reasons[event.unit] = event.reason
                elif isinstance(event, InFlight):
                    metrics.in_flight(event.open_units, event.rows_held)
                self.buffer.flush_if_due()
                metrics.report_if_due(self.buffer)
                self._check_budget()
                self.progress.tick()
        finally:
            self.progress.end()
            # Also on the way out of an error: what is written should not be done again.
            self.buffer.flush()
            metrics.in_flight(0, 0)
            metrics.report(self.buffer)
        self._check_budget()

    def _check_budget(self) -> None:
        if reason := over_budget(self.buffer.ours, self.config.max_quarantine_rate):
            raise OverBudget(reason)

    def _arguments(self, device: str, recorder: Recorder, *, careful: bool) -> "PassArguments":
        from pipeline.job.graph import PassArguments
        from pipeline.job.workers import CommitArguments, DecodeArguments, TokenizeArguments

        config = self.config
        rules = clip_rules(config.clip.identity())
        limits = DecodeLimits(timeout_s=config.decode.timeout_s, memory_mb=config.decode.memory_mb)
        return PassArguments(
            decode=DecodeArguments(
                rules=rules,
                limits=limits,
                row_clips=config.row_clips,
                max_video_mb=config.source.max_video_mb,
                storage_options=config.source.storage_options,
                lists=config.source.lists,
                whole=config.clip.whole,
            ),
            tokenize=TokenizeArguments(
                specs=config.tokenizers,
                columns=self.tokenizers.columns,
                weights=self.tokenizers.weights,
                device=device,
                threads=config.tokenize.threads,
                whole=(rules, limits) if config.clip.whole else None,
                decode_back_one_in=config.tokenize.decode_back_one_in,
            ),
            commit=CommitArguments(
                store=Store(config.output.uri, config.output.storage_options),
                columns=self.tokenizers.columns,
                levels=code_levels(self.tokenizers.identity),
                row_group_bytes=config.commit.row_group_mb * _MIB,
                max_part_bytes=config.commit.part_mb * _MIB,
            ),
            open_units=config.commit.open_units,
            recorder=recorder,
            careful=careful,
        )
