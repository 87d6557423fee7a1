"""Exact tiles compared with whole pictures: time, memory, and the code indices that differ.

    python -m benchmarks.tiles [--model NAME] [--narrow] [--size 1080 1920] [--clips 1]
        [--frames 13] [--tile 512] [--steps encode decode]

Encodes clips one by one and decodes them, with and without tiles, each in a new process. A model
without bundled weights gets drawn ones. Time is that of the CPU, because other work can run. Memory
is the rise of the peak since the start, so that of decoding includes the encoder's.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import vidtok
from tests.vidtok.deterministic import fill_weights, synthetic_video
from vidtok.presets import bundled_weights, named_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vidtok_fsq_causal_488_262144_tiny")
    parser.add_argument("--narrow", action="store_true", help="with the width of the tiny models")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--steps", nargs="+", default=("encode", "decode"))
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 1920))
    parser.add_argument("--frames", type=int, default=13)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--only", choices=("whole", "tiles"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        _run_once(asked)
        return
    told, made = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ("whole", "tiles"):
            out = Path(folder) / f"{way}.npz"
            command = [sys.executable, "-m", "benchmarks.tiles", *sys.argv[1:], "--only", way]
            done = subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.PIPE)
            told[way], made[way] = json.loads(done.stdout), dict(np.load(out))
    height, width = asked.size
    model = asked.model + (" (narrow)" if asked.narrow else "")
    shape = f"{asked.clips}×3×{asked.frames}×{height}×{width}"
    print(f"{model}, {shape}, tiles of {asked.tile}")
    for step in asked.steps:
        (whole, tiles) = (told[way][step] for way in ("whole", "tiles"))
        print(
            f"{step}: whole {whole['s']:.0f} s, {whole['mib']} MiB above the start; tiles ", end=""
        )
        print(f"{tiles['s']:.0f} s, {tiles['mib']} MiB: ", end="")
        print(f"{tiles['s'] / whole['s']:.2f} × time, {tiles['mib'] / whole['mib']:.2f} × memory")
    differ = made["tiles"]["indices"] != made["whole"]["indices"]
    print(f"{differ.sum()} of {differ.size} indices differ")
    if "decode" in asked.steps:
        error = float(((made["tiles"]["frames"] - made["whole"]["frames"]) ** 2).mean())
        print(f"decoded frames: {10 * np.log10(4 / max(error, 1e-30)):.0f} dB")


def _run_once(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    config = named_config(asked.model)
    if asked.narrow:
        config = dataclasses.replace(config, ch=16, num_res_blocks=1)
    if bundled_weights(asked.model):
        model = vidtok.load(asked.model)
    else:
        model = vidtok.build(config)
        fill_weights(model.state_dict())
    videos = synthetic_video(asked.clips, asked.frames, *asked.size).split(1)
    tile = asked.tile if asked.only == "tiles" else None
    told, made = {}, {}
    before, began = _peak_mib(), time.process_time()
    indices = [model.encode(video, tile=tile).indices for video in videos]
    told["encode"] = {"s": time.process_time() - began, "mib": _peak_mib() - before}
    made["indices"] = torch.cat(indices).numpy()
    if "decode" in asked.steps:
        began = time.process_time()
        frames = [model.decode_indices(one, asked.frames, tile=tile) for one in indices]
        told["decode"] = {"s": time.process_time() - began, "mib": _peak_mib() - before}
        made["frames"] = torch.cat(frames).numpy()
    np.savez(asked.out, **made)
    print(json.dumps(told))


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
