"""Time and memory of FSQ's entropy terms: in plain form, and as training computes them.

    python -m benchmarks.entropy_memory

Each measurement has its own process. Prints, for growing numbers of tokens at one codebook, the
seconds of one forward and backward pass (best of a few after a warm-up) and the rise of resident
memory above torch and the input. The plain form is the definition, with a matrix of tokens × codes.
It runs while the previous size predicts less memory than `--limit-gib`. Its memory at larger sizes
is extrapolated in proportion to the tokens.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor

from vidtok.fsq import indices_to_codes
from vidtok.training.entropy import fsq_entropy

LEVELS = (8,) * 6
TOKENS = (320, 640, 1280, 5120, 10240)
"""Numbers of tokens; one 17×256×256 clip has 5120."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit-gib", type=float, default=8.0, help="of the plain form")
    parser.add_argument("--only", nargs=2, metavar=("FORM", "TOKENS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        _measure(asked.only[0], int(asked.only[1]), asked.threads)
        return
    print(f"{math.prod(LEVELS)} codes, {asked.threads} threads, torch {torch.__version__}")
    print("tokens   plain form                 factorised")
    plain: dict[str, float] | None = None
    for tokens in TOKENS:
        expected = plain["gib"] * tokens / plain["tokens"] if plain else 0.0
        if expected <= asked.limit_gib:
            plain = _in_own_process("plain", tokens, asked.threads)
            left = f"{plain['seconds']:6.2f} s {plain['gib']:7.2f} GiB"
        else:
            left = f"  not run, ~{expected:.0f} GiB"
        ours = _in_own_process("factorised", tokens, asked.threads)
        right = f"{ours['seconds']:6.2f} s {ours['gib'] * 1024:7.0f} MiB"
        print(f"{tokens:6}   {left:26} {right}", flush=True)


def _in_own_process(form: str, tokens: int, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.entropy_memory", "--threads", str(threads)]
    command += ["--only", form, str(tokens)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(told.splitlines()[-1])


def _measure(form: str, tokens: int, threads: int) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    # Spread as an encoder's output is early in training: most tokens straddle several codes.
    z = (torch.randn(tokens, len(LEVELS), generator=generator) * 0.05).requires_grad_()
    entropies = fsq_entropy if form == "factorised" else _plain
    entropies(z[:2], LEVELS)[0].backward()
    base = _peak_gib()
    seconds = []
    for _ in range(1 + (3 if form == "factorised" else 1)):
        started = time.perf_counter()
        token, codebook = entropies(z, LEVELS)
        (token - codebook).backward()
        del token, codebook
        seconds.append(time.perf_counter() - started)
    result = {"tokens": tokens, "seconds": min(seconds[1:]), "gib": _peak_gib() - base}
    print(json.dumps(result))


def _plain(z: Tensor, levels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    codes = indices_to_codes(torch.arange(math.prod(levels)), levels)
    p = torch.softmax(200 * z @ codes.T, -1)

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp(min=1e-5).log()).sum(-1)

    return entropy(p).mean(), entropy(p.mean(0))


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
