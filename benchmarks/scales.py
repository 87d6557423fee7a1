"""One clip at several sizes and rates: what the other columns cost, and how their frames differ.

    python -m benchmarks.scales [VIDEO…] [--size 288] [--rounds 5] [--clips 2]

The first table has the CPU time of a clip of 17 frames in columns of one model, one thread, in
turns, and the ratio to the first column: the median and the range of the rounds. The second table
compares the frames that a column at a scale gets with those that the decoder gives at that size,
in levels of 255.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import vidtok
from benchmarks.reading import FSQ
from pipeline.decode import ClipRule, Decoder
from pipeline.records import Sample
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.inputs import area_means
from pipeline.tokenizers.vidtok_adapter import VidTok

_MODEL = "vidtok_fsq_causal_488_262144_tiny"
_FRAMES = 17
_VIDEOS = sorted((Path(__file__).parents[1] / "tests/data/videos").glob("*.mp4"))
_WAYS = [{}, {"scale": 2}, {"scale": 3}, {"scale": 4}, {"every": 2}]


def cpu_s(encoder: ClipEncoder, clips: NDArray[np.uint8]) -> float:
    """Return the seconds of a core for one encoder call."""
    began = time.process_time()
    encoder(clips)
    return time.process_time() - began


def costs(size: int, rounds: int) -> None:
    """Print the cost of each column."""
    model = VidTok(vidtok.load(_MODEL))
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (1, _FRAMES, size, size, 3), np.uint8)
    columns = [replace(FSQ, model=_MODEL, **way) for way in _WAYS]
    encoders = [ClipEncoder(model, column, batch=1) for column in columns]
    seconds: list[list[float]] = [[] for _ in columns]
    for _ in range(rounds + 1):
        for encoder, found in zip(encoders, seconds, strict=True):
            found.append(cpu_s(encoder, clips))
    print(
        f"| {_MODEL}, {_FRAMES}x{size}x{size} | seconds | of the first (range) |\n|---|---:|---:|"
    )
    for column, found in zip(columns, seconds, strict=True):
        ratios = [a / b for a, b in zip(found[1:], seconds[0][1:], strict=True)]
        spread = f"({min(ratios):.1%} to {max(ratios):.1%})"
        middle = f"{statistics.median(ratios):.1%} {spread}"
        name = column.input_text or "the whole clip"
        print(f"| {name} | {statistics.median(found[1:]):.3f} | {middle} |")
    frames = torch.from_numpy(clips)
    for scale in (1, 2, 3, 4):
        times = []
        for _ in range(rounds):
            began = time.process_time()
            area_means(frames, scale)
            times.append(time.process_time() - began)
        print(f"means at 1/{scale}: {statistics.median(times) * 1000:.1f} ms")


def decoded(path: Path, size: int, count: int) -> Iterator[tuple[Any, NDArray[np.float32]]]:
    """Yield the place in the source and the frames of some clips."""
    rule = ClipRule(
        frames=_FRAMES, height=size, width=size, fps=8.0, short="drop", resize="float32"
    )
    sample = Sample(key=path.stem, video=str(path), video_name=path.name)
    with Decoder(rule) as decoder:
        for clip, frames in decoder.decode(sample, "benchmark"):
            if clip.clip_index >= count:
                return
            if frames is not None:
                yield clip.crop, frames.copy()


def differences(paths: list[Path], size: int, count: int) -> None:
    """Print how frames at a scale differ from those that are decoded at that size."""
    print("\n| video | scale | same crop | mean | 99 % below | maximum | within one level |")
    print("|---|---|---|---:|---:|---:|---:|")
    for path in paths:
        whole = list(decoded(path, size, count))
        for scale in (2, 3, 4):
            direct = list(decoded(path, size // scale, count))
            found = [
                np.abs(area_means(torch.from_numpy(frames), scale).numpy() - other)
                for (_, frames), (_, other) in zip(whole, direct, strict=True)
            ]
            if not found:
                continue
            gaps = np.concatenate([one.ravel() for one in found])
            same = all(a == b for (a, _), (b, _) in zip(whole, direct, strict=True))
            print(
                f"| {path.name} | 1/{scale} | {'yes' if same else 'no'} | {gaps.mean():.2f}"
                f" | {np.percentile(gaps, 99):.1f} | {gaps.max():.1f} | {(gaps <= 1).mean():.0%} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, default=_VIDEOS)
    parser.add_argument("--size", type=int, default=288)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    costs(args.size, args.rounds)
    differences(args.videos, args.size, args.clips)


if __name__ == "__main__":
    main()
