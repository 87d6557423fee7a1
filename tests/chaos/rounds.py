"""One round: a job under one kind of fault, run until it is done, and held to the reference."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.chaos import faults
from tests.chaos.faults import Blow
from tests.chaos.world import World, quarantine_rows
from tests.jobs.conftest import committed_rows, content

MOST_RUNS = 8
"""Runs of the same command after which a round counts as one that never gets done."""
_DISTURBED_RUNS = 3
"""Runs that faults of the store or inside the workers last for; those after it are undisturbed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what is done from outside in the first run, and what goes wrong inside."""

    outside: Callable[[Blow], None] = faults.nothing
    inside: dict[str, Any] = field(default_factory=dict)
    where: str = "disk"
    """Of the output: `disk`, `small disk` or `s3`."""


KINDS: dict[str, Kind] = {
    "decode-actor": Kind(faults.kill_decode_actors),
    "tokenizer-actor": Kind(faults.kill_tokenize_actors),
    "decoder": Kind(faults.kill_decoders),
    "stopped-decoder": Kind(faults.stop_decoders),
    "commit": Kind(inside={"kill_commit": 0.4}),
    "driver": Kind(faults.kill_driver),
    "node": Kind(faults.kill_node),
    "out-of-memory": Kind(inside={"out_of_memory": 0.3}),
    "clock": Kind(inside={"clock_jump": 0.2}),
    "full-disk": Kind(faults.fill_disk, where="small disk"),
    "s3": Kind(where="s3"),
    "s3-driver": Kind(faults.kill_driver, where="s3"),
    "s3-node": Kind(faults.kill_node, where="s3"),
}


@dataclass(slots=True)
class Round:
    """Outcome of the round."""

    kind: str
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    """Faults that were injected."""
    runs: int = 0
    retried: int = 0
    """Number of unit attempts that failed, as the drivers reported."""
    rows: int = 0
    """Rows compared."""
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    faults: list[str] = field(default_factory=list)
    """What is wrong; empty when all is well."""

    @property
    def is_well(self) -> bool:
        return not self.faults


def play(world: World, name: str, seed: int) -> Round:
    """Play one round; the same seed draws the same plan."""
    kind, draws = KINDS[name], random.Random(f"{name}-{seed}")
    played = Round(name, seed)
    output = world.folder / "out"
    if kind.where == "small disk":
        assert world.small_disk is not None
        output = world.small_disk / "out"
    shutil.rmtree(output, ignore_errors=True)
    store, source = Store(str(output)), None
    if kind.where == "s3":
        store = Store(f"{world.s3.bucket()}/out", world.s3_options)
        source = Store(f"{world.s3.bucket()}/tars", world.s3_options)
        for tar in world.tars:
            world.s3.put(source.locate(Path(tar).name), Path(tar).read_bytes())
    settings = world.config(store, source)
    world.begin_round({"seed": f"{name}-{seed}", **kind.inside})
    injected = len(world.s3.faults.injected)
    with ExitStack() as disturbed:
        if kind.where == "s3":
            rate = draws.uniform(0.01, 0.2)
            disturbed.enter_context(world.s3.faults.rule(faults.s3_faults(draws, rate)))
        code = None
        while code != 0 and played.runs < MOST_RUNS:
            if played.runs == _DISTURBED_RUNS:
                disturbed.close()
                played.done.update(world.hits())
                world.begin_round({"seed": "calm"})
            driver = world.start(settings)
            played.runs += 1
            if played.runs == 1:
                kind.outside(Blow(world, driver, draws, played.done))
            code = driver.wait(timeout=300)
            played.retried += world.said().count("attempt    shard")
    played.done.update(world.hits())
    played.done.update(f"S3 {kind}" for kind, _ in world.s3.faults.injected[injected:])
    if code != 0:
        played.faults.append(f"not done after {played.runs} runs: {world.said()[-2000:]}")
        return played
    _compare(world, store, played, same_source=source is None)
    return played


def _compare(world: World, store: Store, played: Round, *, same_source: bool) -> None:
    rows, reference = committed_rows(store), world.reference
    if not same_source:  # another place of the tars gives other units, and nothing else
        rows, reference = content(rows), content(reference)
    name = [f"{key}/{n}" for key, n in zip(*_ids(rows), strict=True)]
    wanted = [f"{key}/{n}" for key, n in zip(*_ids(reference), strict=True)]
    played.rows = rows.num_rows
    played.lost = len(set(wanted) - set(name))
    played.doubled = len(name) - len(set(name))
    if not rows.equals(reference):
        played.changed = 1
        played.faults.append(
            f"rows are not those of the undisturbed run: {played.lost} lost,"
            f" {played.doubled} doubled"
        )
    if not (mine := quarantine_rows(store)).equals(world.quarantine):
        played.faults.append(f"another quarantine: {mine.to_pylist()}")
    played.faults += [str(finding) for finding in verify(store).findings]


def _ids(rows: Any) -> tuple[list[str], list[int]]:
    return rows["key"].to_pylist(), rows["clip_index"].to_pylist()
