"""Delivered clips and frames per second: this decoder next to the reference's way of reading.

    python -m benchmarks.decode [VIDEO…] [--fps 8] [--size 256] [--rounds 3]

The reference's way: PyAV, every frame to RGB, float antialiased resize of each sampled frame. Ours:
the Decoder with its process, which converts only the frames that are kept. Both use one decoding
thread, in turns. Rates are per second of CPU, of this process and its decoder together: decoders
fill all cores of a node, and the wall clock of a shared machine also measures its other users. The
ratio is the median over the rounds.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import av
import psutil
import torch
import torch.nn.functional as F

from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.decode.pixels.geometry import fit_frame
from pipeline.records import Sample

FRAMES = 17
DEMO = sorted((Path(__file__).parents[1] / "tests" / "data" / "videos").glob("*.mp4"))


def reference_style(path: Path, fps: float, size: int) -> int:
    """Return the number of delivered frames, in whole clips."""
    delivered = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        interval = max(1, round(float(stream.average_rate) / fps))
        for index, frame in enumerate(container.decode(stream)):
            rgb = frame.to_ndarray(format="rgb24", threads=1)
            if index % interval:
                continue
            place = fit_frame(rgb.shape[:2], (size, size))
            picture = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
            target = (place.resized_height, place.resized_width)
            picture = F.interpolate(picture, target, mode="bilinear", antialias=True)
            picture = picture[..., place.top :, place.left :][..., :size, :size]
            (picture - 0.5) / 0.5
            delivered += 1
    return delivered // FRAMES * FRAMES


def ours(decoder: Decoder, path: Path) -> int:
    """Return the number of delivered frames, in whole clips."""
    sample = Sample(key=path.stem, video=str(path), video_name=path.name)
    clips = decoder.decode(sample, "benchmark")
    return sum(FRAMES for _, frames in clips if frames is not None)


def cpu_s() -> float:
    """Return the CPU time that this process and its living children have used."""
    me = psutil.Process(os.getpid())
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(recursive=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, default=DEMO)
    parser.add_argument("--fps", type=float, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rules = {
        kind: ClipRule(
            frames=FRAMES,
            height=args.size,
            width=args.size,
            fps=args.fps,
            short="drop",
            resize=kind,
        )
        for kind in ("uint8", "float32")
    }
    print(f"{len(args.videos)} videos, {FRAMES}x{args.size}x{args.size} at {args.fps:g} fps")
    print(f"{'':18}{'frames/CPU s':>14}{'clips/CPU s':>13}{'ratio':>8}{'frames/s':>12}")
    with (
        Decoder(rules["uint8"], DecodeLimits()) as small,
        Decoder(rules["float32"], DecodeLimits()) as exact,
    ):
        ways = {
            "reference style": lambda path: reference_style(path, args.fps, args.size),
            "ours, uint8": lambda path: ours(small, path),
            "ours, float32": lambda path: ours(exact, path),
        }
        for way in ways.values():
            way(args.videos[0])
        rates: dict[str, list[float]] = {name: [] for name in ways}
        walls: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                begun, wall = cpu_s(), time.perf_counter()
                delivered = sum(way(path) for path in args.videos)
                rates[name].append(delivered / (cpu_s() - begun))
                walls[name].append(delivered / (time.perf_counter() - wall))
    reference = rates["reference style"]
    for name, rate in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rate, reference, strict=True))
        middle = statistics.median(rate)
        wall = statistics.median(walls[name])
        print(f"{name:18}{middle:14.0f}{middle / FRAMES:13.1f}{ratio:7.2f}x{wall:12.0f}")


if __name__ == "__main__":
    main()
