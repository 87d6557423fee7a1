"""What a job would do and cost, without doing it: units that are left, and an estimate of the rest.

Units are counted by the job's own planning and log. All else is extrapolated from a few units that
are looked into, evenly drawn among the tars, the runs of loose files and those of list rows, as if
drawn at random. Nothing is written.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from pipeline.config.job import JobConfig
from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.metadata import PATH, Dataset, read_dataset, require_same
from pipeline.decode import DecodeLimits, Decoder, clip_rules
from pipeline.errors import BALANCED
from pipeline.formatting import format_bytes
from pipeline.job.remaining import subtract
from pipeline.job.setup import open_tokenizers, planned_units, with_absolute_paths
from pipeline.operations.plan.estimate import Estimate, Stratum, total
from pipeline.operations.plan.probe import Look, look_into
from pipeline.operations.plan.throughput import clip_seconds, device_here, device_name
from pipeline.quarantine import Quarantined
from pipeline.records import Bucket, WorkUnit, unit_sources
from pipeline.storage.store import Store
from pipeline.tokenizers.identity import expected_shape
from pipeline.tokenizers.models import is_untrained

_DECODE_SHARE: Final = 0.6
"""Of the seconds to measure; the rest is the tokenizers'."""


_HOUR_S: Final = 3600.0


_SHOWN: Final = 20
"""Quarantined samples that a person is shown; programs get all."""


@dataclass(slots=True, kw_only=True)
class Plan:
    """What is left of a job. Estimates are of the units left, and None where nothing was tried."""

    output: str
    fingerprint: str
    planned: int
    committed: int
    tars: int
    """Left to do, as the next."""
    runs: int
    """Of loose files."""
    list_runs: int
    """Of rows of lists."""
    looks: list[Look] = field(default_factory=list)
    samples: Estimate | None = None
    video_bytes: Estimate | None = None
    clips: Estimate | None = None
    cell_bytes: Estimate | None = None
    """Of all tokenizers' cells before compression; other columns come on top."""
    decode_hours: Estimate | None = None
    """Of one actor, reading included."""
    tokenize_hours: Estimate | None = None
    """Of one actor on `device`."""
    device: str | None = None
    """On which tokenizing was measured: `cpu` or `cuda`."""
    device_name: str = ""
    whole: bool = False
    """Whether each video is one clip: then nothing but samples is estimated."""
    wants_gpu: bool = False
    """Whether the job would take a GPU, where `device` is none."""
    decode_cost: Estimate | None = None
    tokenize_cost: Estimate | None = None
    untrained: list[str] = field(default_factory=list)
    """Tokenizers that would run on a seeded initialisation."""

    exit_code = BALANCED

    @property
    def left(self) -> int:
        """Return the number of units left to do."""
        return self.tars + self.runs + self.list_runs

    @property
    def quarantined(self) -> list[Quarantined]:
        """Return the samples and clips that the job would quarantine, as far as they were met."""
        return [record for look in self.looks for record in look.quarantined]

    @property
    def cut_short(self) -> int:
        """Return for how many videos the time was over before their end."""
        return sum(look.cut_short for look in self.looks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        estimates = {name: getattr(self, name) for name in _ESTIMATES}
        return {
            "output": self.output,
            "fingerprint": self.fingerprint,
            "units": {
                "planned": self.planned,
                "committed": self.committed,
                "left": self.left,
                "left_tars": self.tars,
                "left_runs": self.runs,
                "left_list_runs": self.list_runs,
            },
            "looked_into": {
                "units": [look.unit for look in self.looks],
                "samples": sum(look.samples for look in self.looks),
                "decoded": sum(look.decoded for look in self.looks),
                "cut_short": self.cut_short,
                "decode_seconds": round(sum(look.decode_s for look in self.looks), 3),
            },
            "estimates": {name: e and e.to_dict() for name, e in estimates.items()},
            "tokenize_device": self.device,
            "tokenize_device_name": self.device_name,
            "quarantined": [
                {
                    "unit": record.unit,
                    "key": record.key,
                    "clip_index": record.clip_index,
                    "stage": record.stage,
                    "reason": record.reason,
                    "detail": record.detail,
                }
                for record in self.quarantined
            ],
            "untrained": self.untrained,
        }

    def lines(self) -> list[str]:
        """Return the same for a person."""
        if not self.left:
            return [f"nothing to do: all {self.planned} units are committed in {self.output}"]
        kinds = f"{self.tars} tars, {self.runs} runs of files, {self.list_runs} of list rows"
        lines = [
            f"output      {self.output} · fingerprint {self.fingerprint}",
            f"units       {self.planned} planned · {self.committed} committed · {self.left} left",
            f"            {kinds}",
            *(f"untrained   {name}: seeded, not trained weights" for name in self.untrained),
        ]
        if self.looks:
            lines += self._looked()
            lines += self._estimates()
        return lines

    def _looked(self) -> Iterator[str]:
        samples = sum(look.samples for look in self.looks)
        decoded = sum(look.decoded for look in self.looks)
        seconds = sum(look.decode_s for look in self.looks)
        yield (
            f"looked      into {len(self.looks)} of the units: {samples} samples read, {decoded}"
            f" decoded in {seconds:.1f} s"
        )
        if self.cut_short:
            yield (
                f"            {self.cut_short} of them only to where the time was over: clips,"
                " bytes and hours are more than said below"
            )
        for record in self.quarantined[:_SHOWN]:
            clip = "" if record.clip_index is None else f"/{record.clip_index}"
            where = f"{record.unit}/{record.key}{clip}"
            yield f"quarantine  {where}: {record.stage}: {record.reason}: {record.detail}"
        if (more := len(self.quarantined) - _SHOWN) > 0:
            yield f"            and {more} more; --json lists all"

    def _estimates(self) -> Iterator[str]:
        yield "extrapolated to the units left, ± two standard errors of the draw:"
        for name, (label, show, what) in _ESTIMATES.items():
            if (estimate := getattr(self, name)) is not None:
                note = what.format(device=self.device_name)
                yield f"{label:<12}{_spread(estimate, show)}{note}"
        if self.whole:
            yield "            each video is one clip, of its own length: bytes and hours not tried"
        if self.wants_gpu:
            yield "            on GPUs tokenizing takes other hours; none is here to measure on"


def _spread(estimate: Estimate, show: Callable[[float], str]) -> str:
    if estimate.error == 0:
        return show(estimate.value)
    if estimate.error is None:
        return f"about {show(estimate.value)} (one unit shows no spread)"
    return f"{show(estimate.value)} ± {show(estimate.error)}"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _amount(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


_ESTIMATES: Final[dict[str, tuple[str, Callable[[float], str], str]]] = {
    "samples": ("samples", _number, ""),
    "video_bytes": ("videos", format_bytes, " to read"),
    "clips": ("clips", _number, ""),
    "cell_bytes": ("cells", format_bytes, " before compression, by their shapes"),
    "decode_hours": ("decode", _amount, " actor-hours, reading included; measured on a CPU here"),
    "tokenize_hours": ("tokenize", _amount, " actor-hours; measured here on {device}"),
    "decode_cost": ("cost", _amount, " for decoding"),
    "tokenize_cost": ("cost", _amount, " for tokenizing"),
}


def plan_job(
    config: JobConfig,
    *,
    look: int = 4,
    seconds: float = 60.0,
    price_cpu_hour: float | None = None,
    price_gpu_hour: float | None = None,
) -> Plan:
    """Tell what a job would do, and estimate what it would write and take.

    Args:
        config: the job; its paths are taken from the working directory.
        look: how many of the units left are read, to their ends.
        seconds: to decode and to tokenize in; 0 only counts samples, and so does any number where
            whole videos are clips.
        price_cpu_hour: of one CPU, in any currency.
        price_gpu_hour: of one GPU.

    Raises:
        ConfigError: the job would refuse to begin, too.
        StoreError: output or sources cannot be read.
    """
    config = with_absolute_paths(config)
    if config.clip.whole:
        seconds = 0.0  # one video's length says too little about another's
    units = planned_units(config)
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
        planned=len(units),
        committed=sum(committed.sources.issuperset(unit_sources(unit)) for unit in units),
        tars=len(kinds[0]),
        runs=len(kinds[1]),
        list_runs=len(kinds[2]),
        whole=config.clip.whole,
        untrained=[spec.name for spec in config.tokenizers if is_untrained(spec)],
    )
    drawn = [_evenly(kind, look, len(left)) for kind in kinds]
    if not any(drawn):
        return result
    found = _look(config, drawn, seconds * _DECODE_SHARE if seconds else None)
    result.looks = [one for kind in found for one in kind]

    def estimate(value: Callable[[Look], float], *, counted: bool) -> Estimate:
        """Extrapolate what each look says of its unit."""
        return total(
            Stratum(len(kind), [value(one) for one in looks], counted)
            for kind, looks in zip(kinds, found, strict=True)
            if kind
        )

    result.samples = estimate(lambda one: one.samples, counted=True)
    result.video_bytes = estimate(lambda one: one.video_bytes, counted=True)
    if not seconds:
        return result
    whole = all(one.whole for one in result.looks)
    buckets = {bucket: clip for one in result.looks for bucket, clip in one.examples.items()}
    sizes = {bucket: _cell_bytes(dataset, bucket) for bucket in buckets}
    result.clips = estimate(lambda one: _sum(one, dict.fromkeys(buckets, 1.0)), counted=whole)
    result.cell_bytes = estimate(lambda one: _sum(one, sizes), counted=whole)
    result.decode_hours = estimate(
        lambda one: (one.read_s + one.decode_s * one.scale) / _HOUR_S, counted=whole
    )
    result.device = device_here(config)
    result.device_name = device_name(config, result.device)
    result.wants_gpu = result.device == "cpu" and config.tokenize.device != "cpu"
    pace = clip_seconds(
        config,
        tokenizers,
        buckets,
        device=result.device,
        seconds=seconds * (1 - _DECODE_SHARE),
    )
    result.tokenize_hours = estimate(lambda one: _sum(one, pace) / _HOUR_S, counted=whole)
    if price_cpu_hour is not None:
        result.decode_cost = result.decode_hours.times(price_cpu_hour)
    result.tokenize_cost = _tokenize_cost(config, result, price_cpu_hour, price_gpu_hour)
    return result


def _evenly(units: Sequence[WorkUnit], look: int, of: int) -> list[WorkUnit]:
    """Return units at even distances: of `look` among `of` the share of these, one at least."""
    if not units or not look:
        return []
    count = min(len(units), max(1, round(look * len(units) / of)))
    return [units[(2 * n + 1) * len(units) // (2 * count)] for n in range(count)]


def _look(
    config: JobConfig, drawn: Sequence[Sequence[WorkUnit]], seconds: float | None
) -> list[list[Look]]:
    """Look into the units drawn of each kind; what one leaves of its time the next ones have."""
    limits = DecodeLimits(timeout_s=config.decode.timeout_s, memory_mb=config.decode.memory_mb)
    units_left = sum(map(len, drawn))
    spent = 0.0
    found: list[list[Look]] = []
    with Decoder(clip_rules(config.clip.identity()), limits) as decoder:
        for kind in drawn:
            found.append([])
            for unit in kind:
                one = look_into(
                    unit,
                    decoder,
                    seconds=None if seconds is None else (seconds - spent) / units_left,
                    source=config.source,
                    images=config.clip.takes_images,
                )
                found[-1].append(one)
                spent += one.decode_s
                units_left -= 1
    return found


def _sum(look: Look, each: dict[Bucket, float]) -> float:
    """Return a sum over the clips of a unit, extrapolated from those of its decoded samples."""
    return look.scale * sum(count * each[bucket] for bucket, count in look.clips.items())


def _cell_bytes(dataset: Dataset, bucket: Bucket) -> float:
    """Return the bytes of all tokenizers' cells of one clip."""
    return float(
        sum(
            np.prod(expected_shape(dataset, column, bucket=bucket.name, num_frames=bucket.frames))
            * column.stored_dtype.itemsize
            * len(column.cell_columns)
            for column in dataset.tokenizers
        )
    )


def _tokenize_cost(
    config: JobConfig, plan: Plan, price_cpu_hour: float | None, price_gpu_hour: float | None
) -> Estimate | None:
    """Return what tokenizing costs, where it was measured on what has a price."""
    assert plan.tokenize_hours is not None
    if plan.device == "cuda":
        return None if price_gpu_hour is None else plan.tokenize_hours.times(price_gpu_hour)
    if price_cpu_hour is None or plan.wants_gpu:
        return None  # hours of a CPU say nothing about a GPU's
    return plan.tokenize_hours.times(price_cpu_hour * config.tokenize.threads)
