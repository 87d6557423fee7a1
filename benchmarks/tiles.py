"""Exact tiles compared with whole pictures: time, memory, and the code indices that differ.

    python -m benchmarks.tiles [--model NAME] [--narrow] [--size 1080 1920] [--clips 1]
        [--frames 13] [--tile 512] [--steps encode decode]

Two processes, one with tiles and one without, encode and decode clips in turns, so that other work
slows both. A model without bundled weights gets drawn ones. Time is that of the CPU. Memory is the
peak of resident memory in a step, above what model and videos take. Needs Linux.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import vidtok
from tests.vidtok.deterministic import fill_weights, synthetic_video
from vidtok.presets import bundled_weights, named_config

WAYS = ("whole", "tiles")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vidtok_fsq_causal_488_262144_tiny")
    parser.add_argument("--narrow", action="store_true", help="with the width of the tiny models")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--steps", nargs="+", default=("encode", "decode"))
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 1920))
    parser.add_argument("--frames", type=int, default=13)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        _serve(asked)
        return
    told: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    differ, errors, codes = 0, [], []
    with TemporaryDirectory() as folder, ExitStack() as stack:
        worker = {way: stack.enter_context(_worker(way)) for way in WAYS}
        for n in range(asked.clips):
            made = {}
            for way in WAYS if n % 2 == 0 else WAYS[::-1]:
                answer, made[way] = _ask(worker[way], n, Path(folder) / f"{way}.npz")
                for step, cost in answer.items():
                    told[way, step].append(cost)
            whole, tiles = (made[way] for way in WAYS)
            differ += int((whole["indices"] != tiles["indices"]).sum())
            codes.append(whole["indices"].ravel())
            if "decode" in asked.steps:
                errors.append(float(((whole["frames"] - tiles["frames"]) ** 2).mean()))
    model = asked.model + (" (narrow)" if asked.narrow else "")
    shape = "×".join(map(str, (asked.clips, 3, asked.frames, *asked.size)))
    print(f"{model}, {shape}, tiles of {asked.tile}")
    for step in asked.steps:
        (s, mib), (s_tiles, mib_tiles) = (_sums(told[way, step]) for way in WAYS)
        print(f"{step}: whole {s:.1f} s, {mib:.0f} MiB above the start; ", end="")
        print(f"tiles {s_tiles:.1f} s, {mib_tiles:.0f} MiB: ", end="")
        print(f"{s_tiles / s:.2f} × time, {mib_tiles / mib:.2f} × memory")
    compared = np.concatenate(codes)
    print(f"{differ} of {compared.size:,} indices differ, ", end="")
    print(f"of {len(np.unique(compared)):,} different codes")
    if errors:
        error = sum(errors) / len(errors)
        print(f"decoded frames: {10 * np.log10(4 / max(error, 1e-30)):.0f} dB")


def _sums(costs: list[dict[str, float]]) -> tuple[float, float]:
    return sum(cost["s"] for cost in costs), max(cost["mib"] for cost in costs)


@contextmanager
def _worker(way: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.tiles", *sys.argv[1:], "--only", way]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def _ask(
    process: subprocess.Popen[str], clip: int, out: Path
) -> tuple[dict[str, dict[str, float]], dict[str, NDArray[Any]]]:
    """Return what a clip cost a worker, and what the worker made of it."""
    assert process.stdin
    assert process.stdout
    print(json.dumps([clip, str(out)]), file=process.stdin, flush=True)
    answer = json.loads(process.stdout.readline())
    return answer, dict(np.load(out))


def _serve(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    config = named_config(asked.model)
    if asked.narrow:
        config = dataclasses.replace(config, ch=16, num_res_blocks=1)
    if bundled_weights(asked.model):
        model = vidtok.load(asked.model)
    else:
        model = vidtok.build(config)
        fill_weights(model.state_dict())
    videos = synthetic_video(asked.clips, asked.frames, *asked.size)
    tile = asked.tile if asked.only == "tiles" else None
    # Kernels that are kept from the first call on belong to the model.
    small = model.encode(videos[:1, :, :, :64, :64]).indices
    assert small is not None
    if "decode" in asked.steps:
        model.decode_indices(small, asked.frames)
    before = _mib("VmRSS")
    for line in sys.stdin:
        clip, out = json.loads(line)
        video = videos[clip : clip + 1]
        cost: dict[str, dict[str, float]] = {}
        with _counted(cost, "encode", before):
            indices = model.encode(video, tile=tile).indices
        assert indices is not None
        made = {"indices": indices.numpy()}
        if "decode" in asked.steps:
            with _counted(cost, "decode", before):
                frames = model.decode_indices(indices, asked.frames, tile=tile)
            made["frames"] = frames.numpy()
            del frames
        np.savez(out, **made)
        del made
        print(json.dumps(cost), flush=True)


@contextmanager
def _counted(cost: dict[str, dict[str, float]], step: str, before: float) -> Iterator[None]:
    """Note the CPU time of what runs inside, and its peak above `before`."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
    began = time.process_time()
    yield
    cost[step] = {"s": time.process_time() - began, "mib": _mib("VmHWM") - before}


def _mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    main()
