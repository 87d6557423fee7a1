"""Chaos by one command: `python -m tests.chaos --seeds 5 [--kinds node,s3] [--first 0] [--few]`.

Each kind of fault gets as many rounds as there are seeds. Prints a line per round and the counts.
Exit code 1 if anything was lost, doubled or changed, or a job did not get done.
"""

import argparse
import sys
import time
from collections import Counter

from tests.chaos.rounds import KINDS, Round, play
from tests.chaos.world import World
from tests.forked_workers import forked_workers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="rounds of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kinds", default=",".join(KINDS), help="separated by commas")
    parser.add_argument("--few", action="store_true", help="a small corpus: five videos")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"--kinds: {unknown[0]}: unknown; use {', '.join(KINDS)}")
    played: list[Round] = []
    with forked_workers(), World(few=options.few) as world:
        print(
            f"reference: {world.reference.num_rows} rows, {world.quarantine.num_rows} quarantined"
        )
        if world.small_disk is None and "full-disk" in kinds:
            print("full-disk: left out, no file system can be mounted here")
            kinds.remove("full-disk")
        for seed in range(options.first, options.first + options.seeds):
            for kind in kinds:
                began = time.monotonic()
                played.append(one := play(world, kind, seed))
                done = ", ".join(f"{name} {n}" for name, n in sorted(one.done.items()))
                verdict = "well" if one.is_well else "FAULT " + "; ".join(one.faults)
                print(
                    f"{kind} {seed}: {one.runs} runs, {one.retried} attempts failed,"
                    f" {one.rows} rows, {time.monotonic() - began:.0f} s;"
                    f" {done or 'nothing hit'}: {verdict}",
                    flush=True,
                )
    for line in table(played):
        print(line)
    return 0 if all(one.is_well for one in played) else 1


def table(played: list[Round]) -> list[str]:
    """Return the counts as a Markdown table, one row per kind."""
    lines = [
        "| fault | rounds | runs | injected | attempts failed | rows compared | lost | doubled |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in [*dict.fromkeys(one.kind for one in played), "all"]:
        ours = [one for one in played if kind in (one.kind, "all")]
        done: Counter[str] = sum((one.done for one in ours), Counter())
        injected = ", ".join(f"{name} {n}" for name, n in sorted(done.items()))
        lines.append(
            f"| {kind} | {len(ours)} | {sum(one.runs for one in ours)} |"
            f" {done.total() if kind == 'all' else injected} |"
            f" {sum(one.retried for one in ours)} | {sum(one.rows for one in ours)} |"
            f" {sum(one.lost for one in ours)} | {sum(one.doubled for one in ours)} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
