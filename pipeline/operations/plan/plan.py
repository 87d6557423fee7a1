"""Plans a job without running it: units that are left, and estimates of what they hold and cost.

Units are counted by the job's own planning and log. Everything else is extrapolated from a few
units, drawn evenly from the tars, the runs of loose files and the runs of list rows, and treated as
a random sample. Nothing is written.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pipeline.config.job import JobConfig
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.metadata import PATH, Dataset, read_dataset, require_same
from pipeline.job.remaining import is_done, subtract
from pipeline.job.setup import Tokenizers, open_tokenizers, planned_units, with_absolute_paths
from pipeline.operations.plan.estimate import Estimate, Stratum, evenly, total
from pipeline.operations.plan.probe import Probe, probe_unit
from pipeline.operations.plan.result import Plan, UnitCounts
from pipeline.operations.plan.throughput import clip_seconds, device_here, device_name
from pipeline.records import WorkUnit
from pipeline.stages.clip_filter import open_filter
from pipeline.stages.decode import open_decoder
from pipeline.storage.store import Store
from pipeline.tokenizers.checks import is_untrained
from pipeline.tokenizers.identity import expected_shape

_DECODE_SHARE: Final = 0.6
"""Fraction of the time budget for decoding; the rest is for tokenizing."""


_HOUR_S: Final = 3600.0


def plan_job(
    config: JobConfig,
    *,
    probes: int = 4,
    seconds: float = 60.0,
    price_cpu_hour: float | None = None,
    price_gpu_hour: float | None = None,
) -> Plan:
    """Return what a job would do, and estimates of what it would write and take.

    Args:
        config: the job; its relative paths start at the working directory.
        probes: number of units that are read to their end, of those that are left.
        seconds: time budget in seconds for trial decoding and tokenizing; 0 only counts samples,
            as does any value where clips are whole videos.
        price_cpu_hour: price of one CPU for an hour, in any currency.
        price_gpu_hour: price of one GPU for an hour.

    Raises:
        ConfigError: the job would also refuse to start.
        StoreError: output or sources cannot be read.
    """
    config = with_absolute_paths(config)
    if config.clip.whole:
        seconds = 0.0  # the length of a few videos does not predict the others
    left_aside: list[str] = []
    units = planned_units(config, left_aside)
    store = Store(config.output.uri, config.output.storage_options)
    tokenizers = open_tokenizers(config)
    dataset = tokenizers.dataset(config)
    if store.exists(PATH):
        require_same(store, read_dataset(store), dataset)
    committed = CommitLog(store, fingerprint=dataset.fingerprint).committed
    left = subtract(units, committed, files_per_unit=config.source.files_per_unit)
    kinds = [
        [unit for unit in left if unit.tar_uri is not None],
        [unit for unit in left if unit.files],
        [unit for unit in left if unit.rows is not None],
    ]
    result = Plan(
        output=config.output.uri,
        fingerprint=dataset.fingerprint,
        units=UnitCounts(
            planned=len(units),
            committed=sum(is_done(unit, committed) for unit in units),
            left=len(left),
            left_tars=len(kinds[0]),
            left_runs=len(kinds[1]),
            left_list_runs=len(kinds[2]),
        ),
        untrained=[spec.name for spec in config.tokenizers if is_untrained(spec)],
        whole_videos=config.clip.whole,
        filter_rules=list(open_filter(config.clip.identity()).rules),
        left_aside=left_aside,
    )
    drawn = [evenly(kind, probes, len(left)) for kind in kinds]
    if any(drawn):
        found = _probe(config, drawn, seconds * _DECODE_SHARE if seconds else None)
        result.probed = [probe for kind in found for probe in kind]
        prices = price_cpu_hour, price_gpu_hour
        _estimate(config, tokenizers, [len(kind) for kind in kinds], found, seconds, prices, result)
    return result


def _estimate(
    config: JobConfig,
    tokenizers: Tokenizers,
    units: Sequence[int],
    found: Sequence[Sequence[Probe]],
    seconds: float,
    prices: tuple[float | None, float | None],
    result: Plan,
) -> None:
    """Extrapolate from the probes of each kind of units to all units of that kind."""

    def estimate(value: Callable[[Probe], float], *, counted: bool) -> Estimate:
        return total(
            Stratum(count, [value(probe) for probe in probes], counted)
            for count, probes in zip(units, found, strict=True)
            if count
        )

    estimates = result.estimates
    estimates.samples = estimate(lambda probe: probe.samples, counted=True)
    estimates.video_bytes = estimate(lambda probe: probe.video_bytes, counted=True)
    if not seconds:
        return
    whole = all(probe.whole for probe in result.probed)
    examples = {name: clip for probe in result.probed for name, clip in probe.examples.items()}
    ones = dict.fromkeys(examples, 1.0)
    dataset = tokenizers.dataset(config)
    sizes = {bucket: _cell_bytes(dataset, bucket, len(clip)) for bucket, clip in examples.items()}
    estimates.clips = estimate(lambda probe: _sum(probe, ones), counted=whole)
    estimates.cell_bytes = estimate(lambda probe: _sum(probe, sizes), counted=whole)
    estimates.decode_hours = estimate(
        lambda probe: (probe.read_s + probe.decode_s * probe.scale) / _HOUR_S, counted=whole
    )
    device = result.device = device_here(config)
    result.device_name = device_name(config, device)
    result.wants_gpu = device == "cpu" and config.tokenize.device != "cpu"
    budget = seconds * (1 - _DECODE_SHARE)
    times = clip_seconds(config, tokenizers, examples, device=device, seconds=budget)
    hours = estimate(lambda probe: _sum(probe, times) / _HOUR_S, counted=whole)
    estimates.tokenize_hours = hours
    price_cpu, price_gpu = prices
    if price_cpu is not None:
        estimates.decode_cost = estimates.decode_hours.times(price_cpu)
    if device == "cuda" and price_gpu is not None:
        estimates.tokenize_cost = hours.times(price_gpu)
    if device == "cpu" and price_cpu is not None and not result.wants_gpu:
        # Where the job wants a GPU, hours of a CPU have no price.
        estimates.tokenize_cost = hours.times(price_cpu * config.tokenize.threads)


def _probe(
    config: JobConfig, drawn: Sequence[Sequence[WorkUnit]], seconds: float | None
) -> list[list[Probe]]:
    """Probe the units drawn of each kind; time that one does not use is left for the next ones."""
    clip_filter = open_filter(config.clip.identity())
    units_left = sum(map(len, drawn))
    spent = 0.0
    found: list[list[Probe]] = []
    with open_decoder(config.clip.identity(), config.decode) as decoder:
        for kind in drawn:
            found.append([])
            for unit in kind:
                probe = probe_unit(
                    unit,
                    decoder,
                    seconds=None if seconds is None else (seconds - spent) / units_left,
                    source=config.source,
                    images=config.clip.takes_images,
                    clip_filter=clip_filter,
                )
                found[-1].append(probe)
                spent += probe.decode_s
                units_left -= 1
    return found


def _sum(probe: Probe, values: Mapping[str, float]) -> float:
    """Return a sum over the clips of a unit, extrapolated from those of its decoded samples."""
    return probe.scale * sum(count * values[bucket] for bucket, count in probe.clips.items())


def _cell_bytes(dataset: Dataset, bucket: str, num_frames: int) -> float:
    """Return the bytes of all tokenizers' cells of one clip."""
    return float(
        sum(
            column.cell_bytes(expected_shape(dataset, column, bucket=bucket, num_frames=num_frames))
            * len(column.cell_columns)
            for column in dataset.tokenizers
        )
    )
