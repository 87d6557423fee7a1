"""When a job says that it waits for actors, and when it ends."""

import pytest

from pipeline.errors import StageStalled
from pipeline.job.nodes import Node
from pipeline.job.supervision.health import (
    SAY_AFTER_S,
    SAY_EVERY_S,
    SILENT_S,
    STARTS,
    ActorPool,
    Health,
    StallWatch,
)

MAX_WAIT_S = 600.0
POOL = ActorPool("tokenize", actors=2, cpus=0.0, gpus=1.0)
BAD, SOUND = Node("1", "bad", 4.0, 1.0), Node("2", "sound", 4.0, 1.0)
NO_GPU = Node("3", "plain", 4.0, 0.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A pass whose actors report to one desk, and its watch."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.health = Health(self.clock)
        self.watch = StallWatch(MAX_WAIT_S, self.clock)
        self.watch.begin([POOL])

    def after(self, seconds: float, *nodes: Node, needed: bool = True) -> list[str]:
        self.clock.now += seconds
        report = self.health.report()
        return self.watch.check(report, lambda stage: needed, nodes, lambda: "CPUs: 0, GPUs: 0")


@pytest.fixture
def a_run() -> Run:
    return Run()


def fail(run: Run, actor: str, node: Node, times: int = 1) -> None:
    for _ in range(times):
        run.health.failed("tokenize", actor, node.name, "RuntimeError: no device")


def test_an_actor_that_fails_is_named_once_and_counted(a_run: Run) -> None:
    a_run.health.beat("tokenize", "a")
    fail(a_run, "b", BAD)
    line = "trouble    node bad: tokenize does not start: RuntimeError: no device"
    assert a_run.after(1, BAD, SOUND) == [line]
    fail(a_run, "b", BAD)
    assert a_run.after(1, BAD, SOUND) == []
    [trouble] = a_run.watch.troubles.values()
    assert str(trouble) == ("node bad: tokenize does not start (2 times): RuntimeError: no device")
    a_run.health = Health(a_run.clock)  # the next pass
    a_run.watch.begin([POOL])
    fail(a_run, "c", BAD)
    assert a_run.after(1, BAD, SOUND) == []
    assert [trouble.times for trouble in a_run.watch.troubles.values()] == [3]


def test_the_lost_device_is_waited_for_and_comes_back(a_run: Run) -> None:
    a_run.health.beat("tokenize", "a")
    assert a_run.after(0, BAD) == []
    fail(a_run, "a", BAD, 2 * STARTS)
    assert len(a_run.after(1, BAD)) == 1
    [line] = a_run.after(SAY_AFTER_S, BAD)
    assert line == (
        "waiting    tokenize: no actor has run for 26.0 s: node bad: tokenize does not start"
        " (8 times): RuntimeError: no device"
    )
    assert a_run.after(SAY_EVERY_S - 1, BAD) == []
    assert len(a_run.after(1, BAD)) == 1
    a_run.health.beat("tokenize", "a")
    assert a_run.after(1, BAD) == ["continues  tokenize: an actor runs"]


def test_the_lost_device_ends_the_job_at_last(a_run: Run) -> None:
    a_run.health.beat("tokenize", "a")
    a_run.after(0, BAD)
    fail(a_run, "a", BAD)
    a_run.after(MAX_WAIT_S, BAD)
    with pytest.raises(
        StageStalled, match=r"^tokenize: no actor has run for 0:10:01, .* no device$"
    ):
        a_run.after(1, BAD)


def test_an_actor_that_dies_without_a_word_is_missed(a_run: Run) -> None:
    a_run.health.beat("tokenize", "a")
    assert a_run.after(SILENT_S, SOUND) == []
    [line] = a_run.after(SAY_AFTER_S, SOUND)
    assert line.endswith(
        ": it asks for 2 actors (CPUs: 0, GPUs: 1 each); free are CPUs: 0, GPUs: 0,"
        " without those of actors that start"
    )
    assert SILENT_S + SAY_AFTER_S < 60
    with pytest.raises(StageStalled):
        a_run.after(MAX_WAIT_S, SOUND)


def test_rows_that_arrive_show_that_the_job_does_not_stand_still(a_run: Run) -> None:
    a_run.health.beat("tokenize", "a")
    a_run.after(0, SOUND)
    for _ in range(40):
        assert a_run.after(SAY_AFTER_S - 1, SOUND) == []
        a_run.watch.progress()


def test_a_first_actor_is_waited_for_as_long_as_ray_waits(a_run: Run) -> None:
    assert [line[:10] for line in a_run.after(MAX_WAIT_S + 1)] == ["waiting   "]
    assert a_run.after(1) == []


def test_a_stage_that_has_done_its_work_is_not_waited_for(a_run: Run) -> None:
    a_run.health.beat("tokenize", "a")
    a_run.after(0)
    assert a_run.after(2 * MAX_WAIT_S, needed=False) == []
    assert a_run.after(1) == []


def test_a_job_in_which_no_actor_ever_starts_ends_at_once(a_run: Run) -> None:
    fail(a_run, "a", BAD, STARTS)
    fail(a_run, "b", BAD, STARTS - 1)
    a_run.after(1, BAD)
    fail(a_run, "b", BAD)
    assert a_run.after(1, BAD, SOUND) == [], "another node was not tried yet"
    with pytest.raises(StageStalled, match="tokenize: no actor starts: node bad"):
        a_run.after(1, BAD, NO_GPU)
