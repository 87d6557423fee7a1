"""What the sound of clips costs the decode stage, compared with decoding the pictures alone.

    python -m benchmarks.sound VIDEO… [--codec flac] [--rounds 5]

Decodes clips of 17×256×256 at 8 fps of each video, with sound and without, in turns. Time is that
of the CPU, of this process and of the decoder process, because other work can run. Videos without a
track are left out.
"""

import argparse
import statistics
import time
from pathlib import Path

import psutil

from pipeline.decode import ClipRule, DecodeLimits, Decoder, SoundRule
from pipeline.records import Sample

RULE = ClipRule(frames=17, height=256, width=256, fps=8.0, short="pad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--codec", choices=("flac", "opus", "pcm16"), default="flac")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    sound = SoundRule(codec=asked.codec, rate=48_000, channels=2)
    with Decoder(RULE, DecodeLimits(), sound) as with_sound, Decoder(RULE) as without:
        ratios, seconds, size = [], 0.0, 0
        videos = [path for path in asked.videos if _decode(with_sound, path)[1]]
        for _ in range(asked.rounds):
            bare, full = 0.0, 0.0
            for path in videos:
                bare += _decode(without, path)[0]
                spent, size_here, seconds_here = _decode(with_sound, path)
                full, size, seconds = full + spent, size + size_here, seconds + seconds_here
            ratios.append(bare / full)
            print(f"without {bare:.2f} s, with {full:.2f} s: {bare / full:.3f} of the speed")
    print(f"{len(videos)} videos, {asked.codec}: median {statistics.median(ratios):.3f}", end="")
    print(f" ({min(ratios):.3f} to {max(ratios):.3f}) of the speed without sound;", end="")
    print(f" {size / seconds / 1000:.1f} kB per second of sound")


def _decode(decoder: Decoder, path: Path) -> tuple[float, int, float]:
    """Return CPU seconds, bytes of sound, and seconds of sound of one video."""
    decoder.start()
    child = psutil.Process(decoder.pid)
    began = time.process_time() + sum(child.cpu_times()[:2])
    sample = Sample(key=path.name, video=str(path), video_name=path.name)
    size, seconds = 0, 0.0
    for clip, _ in decoder.decode(sample, "u"):
        if (data := clip.side.get("audio")) is not None:
            size, seconds = size + len(data), seconds + clip.end_s - clip.start_s
    return time.process_time() + sum(child.cpu_times()[:2]) - began, size, seconds


if __name__ == "__main__":
    main()
