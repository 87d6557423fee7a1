"""What the measures of a clip cost: each alone, all without weights, and beside the decoding.

    python -m benchmarks.measures [VIDEO…] [--rounds 9]

Clips of 17×256×256 at 8 fps. Time is that of the CPU, of this process and of the decoder process,
because other work can run. The measures are computed on clips in memory, in turns; a measure alone
includes the plane of luma that it needs. Decoding runs with those without weights, and without any,
in turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from pipeline.config.job import MEASURES
from pipeline.dataset.side_columns import clip_columns
from pipeline.decode import ClipRule, Decoder
from pipeline.decode.measures.measures import ClipMeasures, measure
from pipeline.records import Sample

RULE = ClipRule(frames=17, height=256, width=256, fps=8.0, short="pad")
WEIGHTLESS = tuple(name for name in MEASURES if name != "text_area")
VIDEOS = [Path("tests/data/videos") / name for name in ("bikes.mp4", "vidtok_example.mp4")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, default=VIDEOS)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    numbers = {column.name: column.type for column in clip_columns({"measure": WEIGHTLESS})}
    with (
        Decoder(replace(RULE, measure=WEIGHTLESS), numbers=numbers) as measuring,
        Decoder(RULE) as bare,
    ):
        clips = [
            frames
            for path in asked.videos
            for _, frames in bare.decode(_sample(path), "u")
            if frames is not None
        ]
        works: dict[str, Callable[[], object]] = {
            name: lambda name=name: [measure(clip, [name]) for clip in clips] for name in MEASURES
        }
        works["plane of luma"] = lambda: [ClipMeasures(clip).plane for clip in clips]
        works["all but text_area"] = lambda: [measure(clip, WEIGHTLESS) for clip in clips]
        found: dict[str, list[float]] = {name: [] for name in works}
        ratios = []
        for _ in range(asked.rounds):
            for name, work in works.items():
                began = time.process_time()
                work()
                found[name].append(1000 * (time.process_time() - began) / len(clips))
            seconds = [sum(_decode(d, path) for path in asked.videos) for d in (bare, measuring)]
            ratios.append(seconds[0] / seconds[1])
    print(f"{len(clips)} clips of 17x256x256: ms of CPU time for a clip, median (least)")
    for name, times in found.items():
        print(f"{name:18}{statistics.median(times):6.2f} ({min(times):.2f})")
    print(f"decoding with these: {statistics.median(ratios):.3f}", end="")
    print(f" ({min(ratios):.3f} to {max(ratios):.3f}) of the speed without")


def _sample(path: Path) -> Sample:
    return Sample(key=path.name, video=str(path), video_name=path.name)


def _decode(decoder: Decoder, path: Path) -> float:
    """Return the CPU seconds of decoding one video."""
    decoder.start()
    child = psutil.Process(decoder.pid)
    began = time.process_time() + sum(child.cpu_times()[:2])
    for _ in decoder.decode(_sample(path), "u"):
        pass
    return time.process_time() + sum(child.cpu_times()[:2]) - began


if __name__ == "__main__":
    main()
