"""The model by one command: `python -m tests.protocol --steps 10000000 [--mutate NAME]`.

Plays random schedules of drivers, vacuum, retry, compact, publish, checkpoints and readers over a
store in memory that fails. Exit code 1 if a law of `tests.protocol.laws` is broken; the calls that
led there are printed.
"""

import argparse
import sys
import time

from tests.protocol.breakages import BREAKAGES
from tests.protocol.schedule import model, search

_SHOWN = 60


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.protocol", description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="calls of the store")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--mutate", choices=BREAKAGES, help="break the code on purpose")
    options = parser.parse_args()
    began = time.process_time()
    with model(options.mutate):
        played, counts, broken = search(options.first, steps=options.steps)
    if broken is not None:
        print("\n".join(broken.trace[-_SHOWN:]))
        print(f"seed {options.first + played - 1}: {broken.laws.broken}")
    steps = counts.pop("steps")
    print(f"{steps} steps, {played} schedules, {time.process_time() - began:.0f} CPU seconds")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 0 if broken is None else 1


if __name__ == "__main__":
    sys.exit(main())
