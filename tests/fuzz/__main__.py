"""Fuzz decoder, tar reader, datasets: `python -m tests.fuzz [FOLDER …] --count 5000 [--first 0]`.

Mutates the videos below the folders (those of the tests, if none is named), small tars, and the
files of a small dataset. A seed is a mutant: the same command repeats it. Exit code 1 if anything
happened that must not.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from pipeline.records import Sample
from pipeline.sources.media_types import is_video
from tests.fuzz.datasets import fuzz_datasets
from tests.fuzz.decoding import fuzz
from tests.fuzz.tars import fuzz_tars, make_tar

VIDEOS = Path(__file__).parents[1] / "data/videos"
_MAX_BYTES = 1 << 20
"""Larger videos would make the same mutants, slowly."""


def originals(folders: list[Path]) -> list[bytes]:
    """Return the contents of the videos below folders, in the order of their names."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    found = [p.read_bytes() for p in paths if is_video(p.name) and p.stat().st_size <= _MAX_BYTES]
    return [data for data in found if data]


def good_sample() -> Sample:
    """Return a sound video."""
    data = (VIDEOS / "hiker_tiny.mp4").read_bytes()
    return Sample(key="hiker", video=data, video_name="hiker.mp4")


def small_tars() -> list[bytes]:
    """Return tars as they come: with captions, of videos alone, with long names."""
    clip = (VIDEOS / "odd/video_270.mov").read_bytes()[:3000]
    pairs = [(f"a/{n:03d}.{end}", clip) for n in range(3) for end in ("mp4", "txt", "json")]
    alone = [(f"{n}.mkv", clip) for n in range(4)]
    long = [("x" * 150 + f"/{n}" + "é" * 60 + ".mp4", clip) for n in range(2)]
    return [make_tar(pairs), make_tar(alone), make_tar(long)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[VIDEOS])
    parser.add_argument("--count", type=int, default=1000, help="mutants of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.count)
    files = originals(options.folders)
    print(f"{len(files)} videos", flush=True)
    for tally in fuzz(files, seeds, good_sample()):
        done = tally.outcomes.total()
        if done % 500 == 0 or done == len(seeds):
            print(
                f"{done} videos: {tally.clips} clips, {tally.children_lost} children lost, slowest"
                f" {tally.slowest_s:.1f} s, at most {tally.most_mb} MiB,"
                f" {len(tally.violations)} violations",
                flush=True,
            )
    for outcome, count in tally.outcomes.most_common():
        print(f"    {count:6} {outcome}")
    violations = tally.violations
    for what, of in (
        ("tars", partial(fuzz_tars, small_tars())),
        ("datasets", fuzz_datasets),
    ):
        with tempfile.TemporaryDirectory() as folder:
            outcomes, found = of(seeds, Path(folder))
        print(f"{len(seeds)} {what}: {len(found)} violations")
        for outcome, count in outcomes.most_common():
            print(f"    {count:6} {outcome}")
        violations += found
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
