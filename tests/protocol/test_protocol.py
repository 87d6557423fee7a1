"""The commit protocol keeps its laws in random schedules, and each deliberate breakage is found."""

import pytest

from tests.protocol.breakages import BREAKAGES
from tests.protocol.schedule import model, play, search

STEPS = 12_000
"""The same schedules each time; `python -m tests.protocol` plays as many as one likes."""
RARE = {"table-without-record"}
"""Breakages that only many schedules find: `python -m tests.protocol --mutate NAME`."""
BEGIN_AT = {
    "name-dropped-files": 6,
    "stale-answers": 8,
    "move-blindly": 42,
    "trim-blindly": 27,
}
"""First seed, for a breakage that early schedules do not find; those before it cost seconds."""


def test_no_law_is_broken() -> None:
    with model():
        _, counts, broken = search(0, steps=STEPS)
    assert broken is None, broken and broken.laws.broken
    assert counts["steps"] >= STEPS
    for seen in ("refused", "answer lost", "cut off", "killed", "killed after", "stood still"):
        assert counts[seen] > 0, seen
    for kind in (
        "driver",
        "vacuum",
        "retry",
        "compact",
        "forget",
        "publish",
        "checkpoint",
        "reader",
    ):
        assert counts[f"{kind} done"] > 0, kind


def test_a_seed_plays_the_same_calls_each_time() -> None:
    """Names that the code draws decide the order of listings, and with it what comes next."""
    with model():
        assert play(2).trace == play(2).trace


@pytest.mark.parametrize("breakage", sorted(BREAKAGES.keys() - RARE))
def test_a_breakage_is_found(breakage: str) -> None:
    with model(breakage):
        _, _, broken = search(BEGIN_AT.get(breakage, 0), steps=10**6, schedules=300)
    assert broken is not None
    assert broken.laws.broken
