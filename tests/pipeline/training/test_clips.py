"""Whole batches from real videos, with and without worker processes."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.training.clips import TrainingClips
from pipeline.training.stream import dealt_again
from tests.assets import HIKER, VIDEOS
from tests.pipeline.decode.synthetic import counting
from tests.pipeline.training.sources import source

BROKEN = ("text.mp4", "truncated_half.mp4", "zero_bytes.mp4")
Make = Callable[..., TrainingClips]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short videos of different greys, and three broken ones."""
    folder = tmp_path_factory.mktemp("corpus")
    for n in range(8):
        (folder / f"v{n}.mkv").write_bytes(counting(20 + 5 * n, rate=8))
    for name in BROKEN:
        (folder / name).write_bytes((VIDEOS / "broken" / name).read_bytes())
    return folder


@pytest.fixture
def make(corpus: Path) -> Iterator[Make]:
    opened: list[TrainingClips] = []

    def make(*, batch: int = 3, rank: int = 0, world: int = 1, workers: int = 0, **changes: Any):
        config = source(uri=[str(corpus)], segment_frames=17, **changes)
        opened.append(TrainingClips(config, batch, rank=rank, world=world, workers=workers))
        return opened[-1]

    yield make
    for clips in opened:
        clips.close()


@dataclass
class Recorded:
    """An undisturbed run: `states[n]` was taken before `batches[n]`."""

    batches: list[Tensor]
    states: list[dict[str, Any]]


@pytest.fixture(scope="module")
def recorded(corpus: Path) -> Recorded:
    clips = TrainingClips(source(uri=[str(corpus)], segment_frames=17), 3)
    run = Recorded([], [])
    for _ in range(20):
        run.states.append(json.loads(json.dumps(clips.state_dict())))
        run.batches.append(next(clips))
    run.states.append(clips.state_dict())
    clips.close()
    return run


def take(clips: TrainingClips, count: int) -> list[Tensor]:
    return [next(clips) for _ in range(count)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def names(skipped: dict[str, str]) -> set[str]:
    return {name.partition("/")[2] for name in skipped}


def test_batches_are_of_one_shape(make: Make):
    for batch in take(make(short_side=30, min_scale=0.8), 4):
        assert (batch.shape, batch.dtype) == ((3, 5, 24, 24, 3), torch.uint8)
        assert batch.is_contiguous()


def test_a_state_goes_on_with_the_very_same_batches(make: Make, recorded: Recorded):
    resumed = make()
    resumed.load_state_dicts([recorded.states[5]])
    assert resumed.state_dict() == recorded.states[5]
    assert same(take(resumed, 15), recorded.batches[5:])
    assert resumed.state_dict() == recorded.states[20]
    assert recorded.states[20]["cursors"][0]["epoch"] > 0
    # Of each broken video one line, though several epochs came by.
    assert names(resumed.skipped) == set(BROKEN)


def test_what_is_kept_changes_nothing_nor_what_ran_before(make: Make, recorded: Recorded):
    clips = make(keep_mb=8)
    assert same(take(clips, 20), recorded.batches)
    clips.load_state_dicts([recorded.states[18]])
    assert same(take(clips, 2), recorded.batches[18:])


def test_workers_run_ahead_and_leave_no_trace(make: Make):
    """Neither in the state, which is that of the batches handed out, nor as processes.

    Two workers of the second process take turns with the lanes that the last two of four have.
    """
    ranks = [make(rank=rank, world=4) for rank in (2, 3)]
    for turn in range(5):
        next(ranks[turn % 2])
    resumed = make(rank=1, world=2, workers=2)
    state = together(ranks, turn=1) | {"of": resumed.state_dict()["of"]}
    first = make(rank=0, world=2, workers=2).state_dict()
    resumed.load_state_dicts(json.loads(json.dumps([first, state])))
    expected = [next(ranks[turn % 2]) for turn in range(5, 19)]
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert same(take(resumed, 14), expected)
    assert resumed.state_dict() == state | together(ranks, turn=1)
    assert names(resumed.skipped) <= set(BROKEN)

    children = psutil.Process().children(recursive=True)
    # Python's own, one for this process until its end: the server forks the workers.
    lasting = {child.pid for child in psutil.Process().children()}
    started = [child for child in children if child.pid not in before | lasting]
    workers = [child for child in started if child.ppid() not in {one.pid for one in started}]
    assert [len(worker.children(recursive=True)) for worker in workers] == [2, 2], (
        "a fork server and a decoder for each worker"
    )
    assert len(started) == 6
    resumed.close()
    assert psutil.wait_procs(started, timeout=60)[1] == []
    resumed.close()


def together(ranks: list[TrainingClips], turn: int) -> dict[str, Any]:
    """Return the state, without `of`, of a process that has the lanes of all ranks."""
    states = [rank.state_dict() for rank in ranks]
    return {
        "cursors": [cursor for state in states for cursor in state["cursors"]],
        "turn": turn,
        "skipped": {video: why for state in states for video, why in state["skipped"].items()},
    }


def test_ranks_have_other_batches(make: Make, recorded: Recorded):
    assert not same(take(make(rank=1, world=2), 4), recorded.batches[:4])


def test_another_number_of_ranks_shares_what_is_left_of_the_epoch(make: Make):
    two = [make(rank=rank, world=2) for rank in range(2)]
    for clips in two:
        next(clips)
    states = [clips.state_dict() for clips in two]
    three = [make(rank=rank, world=3) for rank in range(3)]
    start = dealt_again([state["cursors"][0] for state in states], 8 + len(BROKEN))
    for clips in three:
        clips.load_state_dicts(json.loads(json.dumps(states)))
        assert clips.state_dict()["cursors"] == [start]
    first = [next(clips) for clips in three]
    assert not any(same([one], [other]) for one, other in combinations(first, 2))
    # From here the number is the same: so are the batches.
    states = json.loads(json.dumps([clips.state_dict() for clips in three]))
    again = make(rank=2, world=3)
    again.load_state_dicts(states)
    assert same(take(again, 2), take(three[2], 2))


def test_training_keeps_its_random_numbers(make: Make):
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(3).tolist(), random.random()
    torch.manual_seed(1)
    random.seed(1)
    take(make(), 1)
    assert (torch.rand(3).tolist(), random.random()) == expected


def test_a_worker_whose_source_is_bad_says_so(make: Make):
    clips = make(workers=1, exclude=["*.mkv", "truncated*"])
    with pytest.raises(ConfigError, match=r"^uri = .* none of 2 sources has a readable frame") as e:
        next(clips)
    assert len(str(e.value).splitlines()) == 1  # not the traceback of the worker


def test_a_state_of_another_stream_is_refused(make: Make, recorded: Recorded):
    state = recorded.states[1]
    for how, says in (
        ({"batch": 4}, "batch = 4: the saved state of the training clips has batch = 3"),
        ({"seed": 7}, "seed = 7"),
        ({"exclude": "v1.mkv"}, "videos = "),
    ):
        with pytest.raises(ConfigError, match=says):
            make(**how).load_state_dicts([state])
    make(keep_mb=5).load_state_dicts([state])


def test_a_corpus_may_move(recorded: Recorded, corpus: Path, tmp_path: Path):
    (tmp_path / "moved").symlink_to(corpus)
    moved = TrainingClips(source(uri=[str(tmp_path / "moved")], segment_frames=17), 3)
    with closing(moved):
        moved.load_state_dicts([recorded.states[4]])
        assert same(take(moved, 2), recorded.batches[4:6])


def test_wrong_numbers_are_named():
    config = source(uri=[str(HIKER.path)])
    with pytest.raises(ConfigError, match="rank = 2, world = 2"):
        TrainingClips(config, 1, rank=2, world=2)
    with pytest.raises(ConfigError, match="batch = 0"):
        TrainingClips(config, 0)
