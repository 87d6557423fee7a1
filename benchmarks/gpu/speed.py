"""Clips per second, share of the peak and memory; and the kernels that take the time."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.report import Report
from benchmarks.gpu.ways import (
    COMPILED,
    PRECISIONS,
    Setup,
    Way,
    arithmetic,
    clips,
    is_possible,
    model_on_cpu,
    open_way,
)

Call = Callable[[], Any]

_CARDS = {
    "H200": (989, 494, 67),
    "H100 PCIe": (756, 378, 51),
    "H100 NVL": (835, 417, 60),
    "H100": (989, 494, 67),
    "A100": (312, 156, 19.5),
    "L40S": (362, 183, 91.6),
    "L4": (121, 60, 30.3),
    "A10": (125, 62.5, 31.2),
    "4090": (165, 82.6, 82.6),
}
"""Dense TFLOP/s in half precision, TensorFloat-32 and float32 by part of a card's name, as its data
sheet says. The first that fits counts."""


def nominal(card: str, precision: str) -> float | None:
    """Return the TFLOP/s of a card's data sheet, or None if the card is not known."""
    for name, (half, tf32, single) in _CARDS.items():
        if name in card:
            return {"tf32": tf32, "float32": single}.get(precision, half)
    return None


def peaks(report: Report, setup: Setup) -> dict[str, float]:
    """Measure a large matrix product in each precision, and a large copy. Return TFLOP/s."""
    card = torch.cuda.get_device_name() if setup.cuda else "cpu"
    side = 8192 if setup.cuda else 256
    found = {}
    for precision, dtype in PRECISIONS.items():
        a, b = (torch.randn(side, side, device=setup.device).to(dtype) for _ in range(2))
        with arithmetic(precision):
            seconds = min(rounds({"": lambda a=a, b=b: a @ b}, setup)[""])
        found[precision] = 2 * side**3 / seconds / 1e12
        report.add(
            "peak",
            precision=precision,
            matmul_tflops=found[precision],
            data_sheet_tflops=nominal(card, precision) or "unknown",
        )
    source = torch.empty(1 << (30 if setup.cuda else 24), dtype=torch.uint8, device=setup.device)
    out = torch.empty_like(source)
    seconds = min(rounds({"": lambda: out.copy_(source)}, setup)[""])
    report.add("peak", precision="copy", tb_per_s=2 * source.numel() / seconds / 1e12)
    return found


def rounds(
    calls: Mapping[str, Call], setup: Setup, at_least_s: float = 0.2
) -> dict[str, list[float]]:
    """Return the seconds of one call of each way, measured in turns.

    Args:
        at_least_s: seconds of a measurement, which holds several calls if they are shorter.
    """
    warm = {name: _seconds(call, 1, setup) for name, call in calls.items()}
    if setup.quick:
        return {name: [seconds] for name, seconds in warm.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(3 if sum(warm.values()) > 1 else 5):
        for name, call in calls.items():
            found[name].append(_seconds(call, 1 + int(at_least_s / warm[name]), setup))
    return found


def _seconds(call: Call, repeats: int, setup: Setup) -> float:
    """Return the seconds of one of several calls, between which nothing waits."""
    setup.wait()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    setup.wait()
    return (time.perf_counter() - started) / repeats


class Speed:
    """Measures encode and decode of the ways that a machine has.

    Args:
        peaks: TFLOP/s of a matrix product by precision.
    """

    def __init__(self, report: Report, setup: Setup, peaks: Mapping[str, float]) -> None:
        self._report = report
        self._setup = setup
        self._peaks = peaks
        self._opened: dict[tuple[str, str, str], Way] = {}
        self._done: set[tuple[str, str, str, str, int]] = set()

    def cell(
        self, direction: str, name: str, precision: str, batch: int, ways: Sequence[str]
    ) -> None:
        """Add one row for each way; they run in turns. Ways that have a row are left out."""
        setup, calls, facts = self._setup, {}, {}
        where = {"model": name, "precision": precision, "batch": batch}
        with arithmetic(precision):
            for way in ways:
                if not is_possible(way, name, setup):
                    continue
                if (cell := (direction, way, name, precision, batch)) in self._done:
                    continue
                self._done.add(cell)
                try:
                    call = self.call(direction, way, name, precision, batch)
                    facts[way] = _first(call, setup, counted=way != COMPILED)
                    calls[way] = call
                except Exception as error:
                    self._report.add(direction, way=way, **where, clips_per_s=_why(error))
                if setup.cuda:
                    torch.cuda.empty_cache()
            try:
                seconds = rounds(calls, setup)
            except Exception as error:
                for way in calls:
                    self._report.add(direction, way=way, **where, clips_per_s=_why(error))
                return
        for way, each in seconds.items():
            middle = statistics.median(each)
            tflop = facts[way]["tflop"] if way != COMPILED else _known(facts)
            rate = None if tflop is None else tflop / middle
            self._report.add(
                direction,
                way=way,
                **where,
                clips_per_s=batch / middle,
                lowest=batch / max(each),
                highest=batch / min(each),
                tflop_per_clip=None if tflop is None else tflop / batch,
                of_matmul=None if rate is None else f"{rate / self._peaks[precision]:.0%}",
                gib_above_weights=facts[way]["gib"],
                first_call_s=facts[way]["seconds"],
            )

    def call(self, direction: str, way: str, name: str, precision: str, batch: int) -> Call:
        """Return a call of one way. Networks of other names and precisions are dropped."""
        self._opened = {
            key: kept for key, kept in self._opened.items() if key[1:] == (name, precision)
        }
        opened = self._opened.get((way, name, precision))
        if opened is None:
            opened = open_way(way, name, precision, self._setup)
            self._opened[way, name, precision] = opened
        setup = self._setup
        if direction == "encode":
            video = clips(setup, batch)
            return lambda: opened.encode(video)
        config = model_on_cpu(name, setup.quick).config
        shape = config.latent_shape(setup.frames, setup.size, setup.size)
        latent = torch.linspace(-1, 1, batch * torch.Size(shape).numel(), device=setup.device)
        return lambda: opened.decode(latent.view(batch, *shape))

    def profile(self, direction: str, way: str, name: str, precision: str, batch: int) -> None:
        """Add the kernels that take the most time, and write a trace for a browser."""
        setup, report = self._setup, self._report
        with arithmetic(precision):
            call = self.call(direction, way, name, precision, batch)
            call()
            setup.wait()
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * setup.cuda
            with profile(activities=activities) as profiled:
                call()
                setup.wait()
        trace = setup.folder / f"trace-{direction}-{way}-{precision}.json"
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiled.export_chrome_trace(str(trace))
        times = _by_kernel(profiled.key_averages(), setup.cuda)
        total = sum(micros for micros, _ in times.values())
        section = f"kernels of {direction}, {way}, {name}, {precision}, batch {batch}"
        for kernel in sorted(times, key=lambda kernel: -times[kernel][0])[:25]:
            micros, count = times[kernel]
            share = f"{micros / total:.1%}" if total else ""
            report.add(section, kernel=kernel[:90], share=share, ms=micros / 1000, calls=count)
        report.add(section, kernel=f"all; trace in {trace}", share="100%", ms=total / 1000)


def _by_kernel(events: Iterable[Any], cuda: bool) -> dict[str, tuple[float, int]]:
    """Return microseconds and number of calls by kernel (GPU) or operation (CPU)."""
    found: dict[str, tuple[float, int]] = {}
    for event in events:
        if cuda and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        micros = event.self_device_time_total if cuda else event.self_cpu_time_total
        before = found.get(event.key, (0.0, 0))
        found[event.key] = before[0] + micros, before[1] + event.count
    return found


def _first(call: Call, setup: Setup, *, counted: bool) -> dict[str, Any]:
    """Call twice: for operations and seconds of the first call, then for the peak of memory."""
    counter = FlopCounterMode(display=False)
    setup.wait()
    started = time.perf_counter()
    if counted:
        with counter:
            call()
    else:
        call()
    setup.wait()
    seconds = time.perf_counter() - started
    gib = None
    if setup.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        setup.wait()
        gib = (torch.cuda.max_memory_allocated() - before) / 2**30
    tflop = counter.get_total_flops() / 1e12 if counted else None
    return {"tflop": tflop, "gib": gib, "seconds": seconds}


def _known(facts: Mapping[str, Mapping[str, Any]]) -> float | None:
    return next((each["tflop"] for each in facts.values() if each["tflop"] is not None), None)


def _why(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
