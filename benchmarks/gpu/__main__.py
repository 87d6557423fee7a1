"""What to run first on a GPU: correctness, clips per second, share of the peak, kernels, memory.

    git clone https://github.com/microsoft/VidTok ../VidTok && pip install beartype einops
    python -m benchmarks.gpu --reference ../VidTok

Rows are appended to OUT/rows.jsonl as they are measured. Tables are printed at the end and written
to OUT/tables.md. No new measurement begins after `--minutes`. `--device cpu --size 64 --quick`
runs all parts on narrow networks, to see that they run; its numbers say nothing. The exit code is 1
if a check failed.
"""

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.checks import check
from benchmarks.gpu.layouts import layouts
from benchmarks.gpu.report import Report
from benchmarks.gpu.speed import Speed, peaks
from benchmarks.gpu.training import train
from benchmarks.gpu.ways import COMPILED, DIFFUSERS, OURS, PLAIN, REFERENCE, SEARCHED, Setup

MODELS = ["vidtok_fsq_causal_488_32768", "vidtok_fsq_causal_488_32768_v1_1"]
ALL = (OURS, REFERENCE, DIFFUSERS)
Task = tuple[str, Callable[[], None]]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="checkout of the public reference")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all measurements")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of the results")
    parser.add_argument("--check", action="store_true", help="only the checks")
    parser.add_argument("--only-ours", action="store_true", help="no other implementations")
    parser.add_argument("--quick", action="store_true", help="narrow networks, few calls")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {device}: torch {torch.__version__} finds no GPU")
    setup = Setup(device, asked.size, asked.quick, asked.reference, asked.out, asked.only_ours)
    report = Report(asked.out / "rows.jsonl", asked.minutes)
    _machine(report, setup)
    names = MODELS[1:] if asked.quick else MODELS
    check(report, setup, names)
    if not asked.check:
        speed = Speed(report, setup, peaks(report, setup))
        for what, run in _tasks(report, setup, speed, names):
            if report.over:
                report.add("not run", what=what)
                continue
            try:
                run()
            except Exception as error:
                why = " ".join(str(error).split())[:200]
                report.add("not run", what=what, why=f"{type(error).__name__}: {why}")
    text = report.markdown()
    (asked.out / "tables.md").write_text(text)
    print(text)
    return int(report.failed)


def _machine(report: Report, setup: Setup) -> None:
    facts: dict[str, object] = {"torch": torch.__version__, "python": platform.python_version()}
    for package in ("triton", "diffusers"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    if setup.cuda:
        card = torch.cuda.get_device_properties(setup.device)
        facts |= {
            "card": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "compute capability": f"{card.major}.{card.minor}",
            "multiprocessors": card.multi_processor_count,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    facts |= {"device": str(setup.device), "clips": f"{setup.frames}×{setup.size}×{setup.size}"}
    facts["networks"] = "narrow: no figures" if setup.quick else "as released"
    for name, value in facts.items():
        report.add("machine", fact=name, value=value)


def _driver() -> str:
    import subprocess

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
    return told.stdout.splitlines()[0]


def _tasks(report: Report, setup: Setup, speed: Speed, names: list[str]) -> Iterator[Task]:
    """Yield what is measured, the most telling first. Cells of one network follow each other."""
    batch, batches = (2, [1]) if setup.quick else (16, [32, 64, 8, 4, 2, 1])
    last, half = names[-1], "bf16" if setup.device.type == "cpu" else "fp16"
    both = ("encode", "decode")

    def cells(name: str, precision: str, size: int, ways: tuple[str, ...]) -> Iterator[Task]:
        for direction in both:
            what = f"{direction}, {name}, {precision}, batch {size}, {', '.join(ways)}"
            yield what, partial(speed.cell, direction, name, precision, size, ways)

    for name in reversed(names):
        yield from cells(name, half, batch, (OURS, SEARCHED, PLAIN, REFERENCE, DIFFUSERS))
    for direction in both:
        run = partial(speed.profile, direction, OURS, last, half, batch)
        yield f"kernels of {direction}", run
    for size in batches[:2]:
        yield from cells(last, half, size, (OURS,))
    yield "layouts", partial(layouts, report, setup, last, half, batch)
    for shape in [(1, 5, 32)] if setup.quick else [(1, 17, 256), (4, 17, 128)]:
        for recompute in (True,) if setup.quick else (False, True):
            run = partial(train, report, setup, last, shape, recompute)
            yield f"training step {shape}, recompute {recompute}", run
    yield from cells(last, half, batch, (COMPILED,))
    yield from cells(last, "bf16", batch, ALL)
    for precision in ("float32",) if setup.quick else ("float32", "tf32"):
        yield from cells(last, precision, batch, ALL)
    if setup.quick:
        return
    for way in (REFERENCE, DIFFUSERS):
        run = partial(speed.profile, "encode", way, last, half, batch)
        yield f"kernels of encode, {way}", run
    for precision in (half, "bf16", "float32", "tf32"):
        for size in batches:
            yield from cells(last, precision, size, ALL)


if __name__ == "__main__":
    sys.exit(main())
