"""Accuracy of the cuts that `clip.shots` finds, and what they cost the decode stage.

    python -m benchmarks.shots [--videos FOLDER] [--seeds 5] [--network] [--adaptive] [--cost 5]

Precision and recall at ±2 frames: on videos whose cuts are known from looking at their frames, and
on videos that are made of their shots, with H.264 and several seeds. `--network` adds transnetv2,
`--adaptive` PySceneDetect's AdaptiveDetector (scenedetect-headless), with its defaults and on luma
alone. `--cost N` compares the CPU time of the decoder with and without `content`, in N turns.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.decode.clip_rule import ShotRule
from pipeline.decode.container.video import open_video
from pipeline.decode.shot_cuts import marked
from pipeline.decode.shot_network import load_network, network_cuts
from pipeline.records import Sample

HEIGHT, WIDTH = 90, 160
DATA = Path(__file__).parents[1] / "tests" / "data" / "videos"

KNOWN: dict[str, list[int]] = {
    "bikes.mp4": [30, 76, 137, 187, 242],
    "vidtok_example.mp4": [],
    "hiker_tiny.mp4": [],
    "av1_video.mkv": [],
    # Public test videos of other projects, which are not in this repository.
    "bigbuckbunny.mp4": [],
    "carphone_pristine.mp4": [],
    "cockatoo.mp4": [],
    "daft_sample.mp4": [3, 21, 30, 61, 74, 124, 159, 224, 240, 264, 284],
    "dj_video1.mp4": [144, 237],
    "dj_video4.mp4": [],
    "dj_video5.mp4": [],
    "dj_video11.mp4": [],
    "flipping_a_pancake.mkv": [],
    "mm_part0.mp4": [],
    "mm_test.avi": [],
    "nasa_13013.mp4": [240],
    "newtonscradle.gif": [],
    "realshort.mp4": [],
    "v2d_test_20s.mp4": [213],
}
"""Number of the first frame of each shot but the first, by the name of the file."""

Frames = NDArray[Any]
"""Frames [T, 90, 160, 3], uint8."""

Finder = Callable[[bytes], list[int]]


def by_content(video: bytes) -> list[int]:
    with open_video(io.BytesIO(video), DecodeLimits(damage="keep")) as opened:
        found = marked(opened.frames(lambda: None), 3.0)
        return [n for n, (_, begins) in enumerate(found) if begins][1:]


def by_network(video: bytes) -> list[int]:
    with open_video(io.BytesIO(video), DecodeLimits(damage="keep")) as opened:
        times: list[Fraction] = []

        def noted() -> Iterator[Any]:
            for shown in opened.frames(lambda: None):
                times.append(shown.start_s)
                yield shown

        cuts = network_cuts(noted(), 0.5, lambda: None, load_network())
    return [n for n, start_s in enumerate(times) if start_s in cuts]


def by_adaptive(video: bytes, *, luma_only: bool) -> list[int]:
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    detector = AdaptiveDetector(min_scene_len=3, luma_only=luma_only)
    found = []
    with av.open(io.BytesIO(video)) as container:
        stream = max(container.streams.video, key=lambda stream: stream.width)
        for n, frame in enumerate(container.decode(stream)):
            small = frame.reformat(width=WIDTH, height=HEIGHT, format="bgr24").to_ndarray()
            found += detector.process_frame(FrameTimecode(n, 25.0), small)
    return [place.frame_num for place in found]


def shots(paths: Sequence[Path]) -> list[Frames]:
    """Return the shots of the known videos, without the frames beside their cuts."""
    pool = []
    for path in paths:
        if path.name == "v2d_test_20s.mp4":
            continue
        with av.open(str(path)) as container:
            stream = max(container.streams.video, key=lambda stream: stream.width)
            frames = [
                frame.reformat(width=WIDTH, height=HEIGHT, format="rgb24").to_ndarray()
                for frame in container.decode(stream)
            ]
        ends = [0, *KNOWN[path.name], len(frames)]
        for start, stop in pairwise(ends):
            if stop - start > 14:
                pool.append(np.stack(frames[start + 1 : stop - 1]))
    return pool


class Maker:
    """Makes one video of each kind, with the numbers of the frames that begin a shot."""

    def __init__(self, pool: Sequence[Frames], seed: int) -> None:
        self._pool = pool
        self._rng = np.random.default_rng(seed)

    def _shot(self, most: int) -> Frames:
        shot = self._pool[self._rng.integers(len(self._pool))]
        length = min(most, len(shot))
        start = self._rng.integers(len(shot) - length + 1)
        shot = shot[start : start + length]
        return shot[:, :, ::-1] if self._rng.random() < 0.5 else shot

    def _between(self, least: int, most: int) -> int:
        return int(self._rng.integers(least, most))

    def cuts(self) -> tuple[Frames, list[int]]:
        parts = [self._shot(self._between(10, 50)) for _ in range(self._between(5, 9))]
        return np.concatenate(parts), np.cumsum([len(part) for part in parts])[:-1].tolist()

    def slides(self) -> tuple[Frames, list[int]]:
        parts = [self._shot(1).repeat(self._between(8, 40), 0) for _ in range(6)]
        return np.concatenate(parts), np.cumsum([len(part) for part in parts])[:-1].tolist()

    def fades(self) -> tuple[Frames, list[int]]:
        level = 255.0 if self._rng.random() < 0.3 else 0.0
        parts = []
        for ramp in (slice(None, None, -1), slice(None)):
            shot = self._shot(60).astype(float)
            light = np.ones(len(shot))
            length = min(self._between(6, 25), len(shot))
            light[:length] = np.linspace(0, 1, length)
            parts.append(level + (shot - level) * light[ramp, None, None, None])
        return np.concatenate(parts).round().astype(np.uint8), []

    def dissolves(self) -> tuple[Frames, list[int]]:
        one, other = self._shot(70).astype(float), self._shot(70).astype(float)
        length = min(self._between(8, 30), len(one) - 5, len(other) - 5)
        share = np.linspace(0, 1, length + 2)[1:-1, None, None, None]
        mixed = one[-length:] * (1 - share) + other[:length] * share
        frames = np.concatenate([one[:-length], mixed, other[length:]])
        return frames.round().astype(np.uint8), []

    def flashes(self) -> tuple[Frames, list[int]]:
        frames = self._shot(90).astype(float)
        for start in range(15, len(frames) - 12, self._between(20, 35)):
            length, peak = self._between(1, 6), self._rng.uniform(0.4, 1)
            for n in range(length):
                picture = frames[start + n]
                frames[start + n] = picture + (255 - picture) * peak * (1 - n / length)
        return frames.round().astype(np.uint8), []

    def whip_pans(self) -> tuple[Frames, list[int]]:
        one, other, length = self._shot(50), self._shot(50), self._between(5, 13)
        wide = np.concatenate([one[-1], self._shot(1)[0], other[0]], 1).astype(float)
        at = (1 - np.cos(np.linspace(0, np.pi, length + 2))) * WIDTH
        pan = []
        for start, stop in pairwise(at[:-1]):
            blurred = np.linspace(start + 0.3 * (stop - start), stop, max(1, int(stop - start)))
            pan.append(np.mean([wide[:, int(x) : int(x) + WIDTH] for x in blurred], 0))
        return np.concatenate([one, np.stack(pan).round().astype(np.uint8), other]), []

    def still(self) -> tuple[Frames, list[int]]:
        noise = self._rng.normal(0, self._rng.uniform(0, 6), (80, HEIGHT, WIDTH, 3))
        return (self._shot(1) + noise).clip(0, 255).round().astype(np.uint8), []

    def repeated(self) -> tuple[Frames, list[int]]:
        return self._shot(60)[::3].repeat(self._between(2, 5), 0), []


KINDS = ("cuts", "slides", "fades", "dissolves", "flashes", "whip_pans", "still", "repeated")


def encoded(frames: Frames) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=25, options={"crf": "23"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            target.mux(stream.encode(picture))
        target.mux(stream.encode())
    return out.getvalue()


def compared(found: Sequence[int], known: Sequence[int], within: int = 2) -> NDArray[Any]:
    """Return the numbers of cuts that are found, that are false, and that are missed."""
    left = list(known)
    hits = 0
    for place in found:
        near = [cut for cut in left if abs(cut - place) <= within]
        if near:
            left.remove(min(near, key=lambda cut: abs(cut - place)))
            hits += 1
    return np.array([hits, len(found) - hits, len(left)])


def share(part: int, rest: int) -> str:
    return f"{part / (part + rest):.3f}" if part + rest else "-"


def accuracy(
    name: str, find: Finder, paths: Sequence[Path], pool: list[Frames], seeds: int
) -> None:
    began, frames = time.process_time(), 0
    rows: dict[str, NDArray[Any]] = {}
    for path in paths:
        found = find(path.read_bytes())
        result = compared(found, KNOWN[path.name])
        rows["real"] = rows.get("real", np.zeros(3, int)) + result
        if result[1:].any():
            print(f"  {path.name}: found {found}, known {KNOWN[path.name]}")
    for kind in KINDS:
        for seed in range(seeds):
            made, known = getattr(Maker(pool, seed), kind)()
            frames += len(made)
            result = compared(find(encoded(made)), known)
            rows[kind] = rows.get(kind, np.zeros(3, int)) + result
    print(f"{name}: {time.process_time() - began:.0f} s of CPU time, with making {frames} frames")
    print("| videos | found | false | missed | precision | recall |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind, (hits, false, missed) in {**rows, "all": sum(rows.values())}.items():  # type: ignore
        numbers = f"| {kind} | {hits} | {false} | {missed} "
        print(f"{numbers}| {share(hits, false)} | {share(hits, missed)} |")


def cpu_s() -> float:
    """Return the CPU time that this process and its living children have used."""
    me = psutil.Process(os.getpid())
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(recursive=True)))


def cost(paths: Sequence[Path], turns: int) -> None:
    """Print the throughput of the decoder with shots, as a share of that without."""
    plain = ClipRule(frames=17, height=256, width=256, fps=8, short="drop")
    rule = ShotRule(by="content", threshold=3.0, trim_s=0.0, min_s=0.0)
    split = ClipRule(frames=17, height=256, width=256, fps=8, short="drop", shots=rule)
    numbers = {"shot": "int32", "shot_start_s": "float64", "shot_end_s": "float64"}
    with Decoder(plain) as without, Decoder(split, numbers=numbers) as with_shots:
        for path in paths:
            sample = Sample(key=path.stem, video=str(path), video_name=path.name)
            used: dict[Decoder, list[float]] = {without: [], with_shots: []}
            for turn in range(turns + 1):
                for decoder in (without, with_shots) if turn % 2 else (with_shots, without):
                    began = cpu_s()
                    for _ in decoder.decode(sample, "benchmark"):
                        pass
                    used[decoder].append(cpu_s() - began)
            one, other = used.values()
            least = min(one[1:]) / min(other[1:])
            pairs = [a / b for a, b in zip(one[1:], other[1:], strict=True)]
            print(f"{path.name}: throughput with shots, of that without: {least:.3f} by the least")
            print(
                f"    time of all turns, {statistics.median(pairs):.3f} by the median of the pairs"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of the other known videos")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--adaptive", action="store_true")
    parser.add_argument("--cost", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folders = [DATA, DATA / "odd", *([args.videos] if args.videos else [])]
    found = {name: [f / name for f in folders if (f / name).exists()] for name in KNOWN}
    paths = [places[0] for places in found.values() if places]
    if args.cost:
        cost(paths, args.cost)
    if args.seeds:
        pool = shots(paths)
        accuracy("content", by_content, paths, pool, args.seeds)
        if args.network:
            accuracy("transnetv2", by_network, paths, pool, args.seeds)
        if args.adaptive:
            for luma in (False, True):
                name = "AdaptiveDetector" + (", luma only" if luma else "")
                find = lambda video, luma=luma: by_adaptive(video, luma_only=luma)  # noqa: E731
                accuracy(name, find, paths, pool, args.seeds)


if __name__ == "__main__":
    main()
