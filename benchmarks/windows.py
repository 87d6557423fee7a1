"""What several rates and sizes of clips cost in one decode, compared with a decode for each.

    python -m benchmarks.windows VIDEO… [--rounds 5]

Each way decodes every video in turns. Time is that of the CPU, of this process and of the decoder
process, because other work can run. It is given as a multiple of decoding 17×256×256 at 8 fps.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline.decode import Decoder, clip_rules
from pipeline.records import Sample


def clip(*sizes: int, fps: Any = 8.0, **how: Any) -> dict[str, Any]:
    buckets = [{"frames": 17, "height": size, "width": size} for size in sizes]
    several = {"every_bucket": True} if len(sizes) > 1 else {}
    return {"fps": fps, "short": "drop", "resize": "uint8", "buckets": buckets} | several | how


WAYS = {
    "8 fps, 256": clip(256),
    "4 fps, 256": clip(256, fps=4.0),
    "8 fps, 128": clip(128),
    "4 fps, 128": clip(128, fps=4.0),
    "8 and 4 fps, 256": clip(256, fps=[8.0, 4.0]),
    "8 fps, 256 and 128": clip(256, 128),
    "8 and 4 fps, 256 and 128": clip(256, 128, fps=[8.0, 4.0]),
    "overlap of half a clip": clip(256, stride_s=1.0625),
    "gaps of three clips": clip(256, stride_s=8.5),
    "at most 2 clips, even": clip(256, max_per_sample=2),
    "at most 2 clips, hash": clip(256, max_per_sample=2, choose="hash"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    clips: dict[str, int] = {}
    decoders = {}
    for name, how in WAYS.items():
        numbers = {"fps": "float64"} if isinstance(how["fps"], list) else None
        decoders[name] = Decoder(clip_rules(how), numbers=numbers)
        decoders[name].start()
    for _ in range(asked.rounds):
        for name, decoder in decoders.items():
            found = [_decode(decoder, path) for path in asked.videos]
            spent[name].append(sum(seconds for seconds, _ in found))
            clips[name] = sum(count for _, count in found)
    for decoder in decoders.values():
        decoder.close()
    base = spent["8 fps, 256"]
    for name, seconds in spent.items():
        ratios = [own / one for own, one in zip(seconds, base, strict=True)]
        print(f"{name}: {clips[name]} clips, {statistics.median(seconds):.2f} s,", end=" ")
        print(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def _decode(decoder: Decoder, path: Path) -> tuple[float, int]:
    """Return CPU seconds and clips of one video."""
    child = psutil.Process(decoder.pid)
    began = time.process_time() + sum(child.cpu_times()[:2])
    sample = Sample(key=path.name, video=str(path), video_name=path.name)
    count = sum(frames is not None for _, frames in decoder.decode(sample, "u"))
    return time.process_time() + sum(child.cpu_times()[:2]) - began, count


if __name__ == "__main__":
    main()
