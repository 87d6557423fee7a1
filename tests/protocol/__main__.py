"""The model by one command: `python -m tests.protocol --steps 10000000 [--mutate NAME]`.

Plays random schedules of drivers, vacuum, retry, compact, publish, checkpoints and readers over a
store in memory that fails. Exit code 1 if a law of `tests.protocol.laws` is broken; the calls that
led there are printed.
"""

import argparse
import logging
import sys
import time
from collections import Counter

from tests.protocol.breakages import BREAKAGES
from tests.protocol.schedule import model, search

_SHOWN = 60
"""Number of lines that are printed of the calls before a law was broken."""

_AT_ONCE = 100_000
"""Number of steps after which a line of progress is printed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.protocol", description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="calls of the store")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--mutate", choices=BREAKAGES, help="break the code on purpose")
    options = parser.parse_args()
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    began, seed = time.process_time(), options.first
    total: Counter[str] = Counter()
    broken = None
    with model(options.mutate):
        while broken is None and total["steps"] < options.steps:
            left = options.steps - total["steps"]
            played, counts, broken = search(seed, steps=min(_AT_ONCE, left))
            seed, total = seed + played, total + counts
            took = f"{time.process_time() - began:.0f} CPU seconds"
            print(f"{total['steps']} steps, {seed - options.first} schedules, {took}", flush=True)
    print(", ".join(f"{name} {count}" for name, count in sorted(total.items())))
    if broken is not None:
        print("\n".join(broken.trace[-_SHOWN:]))
        print(f"seed {seed - 1}: {broken.laws.broken}")
    return 0 if broken is None else 1


if __name__ == "__main__":
    sys.exit(main())
