"""Sides of a split and sequences of clips, in datasets with retries and compactions behind them."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.errors import ConfigError
from pipeline.operations.compact import compact
from pipeline.operations.forget.forget import forget
from pipeline.operations.forget.requests import Requests
from pipeline.reading import Snapshot, TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.reading.siblings import (
    Unit,
    cells_of,
    head,
    rows_of,
    write_anyhow,
    write_sibling,
)
from tests.pipeline.reading.worlds import Batch, world_batches
from tests.pipeline.units import SMALL, WIDE, make_clip


def made_unit(name: str, rng: Random, samples: int) -> Unit:
    """Return a unit whose samples have up to seven clips, some of which are missing."""
    clips = []
    for sample in range(samples):
        bucket = rng.choice([SMALL, SMALL, WIDE])
        for index in range(rng.randrange(8)):
            if rng.random() < 0.9:
                clip = replace(make_clip(name, 0), key=f"{name}-{sample}", clip_index=index)
                clips.append((bucket, clip))
    return clips


def made_units(rng: Random, units: int = 4, samples: int = 6) -> dict[str, Unit]:
    return {f"u-{n}": made_unit(f"u-{n}", rng, samples) for n in range(units)}


def wanted_runs(snapshot: Snapshot, length: int) -> set[tuple[str, ...]]:
    """Return the runs of a dataset, by the rule of the documentation alone."""
    found, run = set(), []
    rows = rows_of(snapshot).items()
    key = lambda row: (row[0][0], row[1]["unit"], row[1]["key"], row[1]["clip_index"])  # noqa: E731
    last = None
    for (bucket, name), row in sorted(rows, key=key):
        here = bucket, row["unit"], row["key"], row["clip_index"]
        if last is None or here[:3] != last[:3] or here[3] != last[3] + 1 or len(run) == length:
            run = []
        run.append(name)
        last = here
        if len(run) == length:
            found.add(tuple(run))
    return found


@pytest.fixture(scope="module")
def worlds() -> Iterator[list[Snapshot]]:
    """Return datasets of the same kind, each with a history of its own."""
    with TemporaryDirectory() as folder:
        snapshots = []
        for seed in range(6):
            store, rng = Store(f"{folder}/{seed}"), Random(seed)
            write_anyhow(store, head("fsq"), made_units(rng), rng)
            snapshots.append(pipeline.open(store.uri))
        yield snapshots


def maker(snapshot: Any, **options: Any) -> Any:
    options = {"batch": 3, "pool_rows": 6, "strands": 4} | options
    return partial(TokenDataset, snapshot, ["clip_id", "clip_index", "fsq"], **options)


def runs(ranks: list[list[Batch]]) -> list[tuple[str, ...]]:
    return [tuple(run) for batches in ranks for batch in batches for run in batch["clip_id"]]


@given(
    world=st.integers(0, 5),
    length=st.integers(2, 4),
    ranks=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=2, max_size=2),
    stop=st.integers(0, 6),
    shuffle=st.booleans(),
)
@settings(max_examples=12)
def test_every_run_once_through_interruptions_and_other_worlds(
    worlds: list[Snapshot],
    world: int,
    length: int,
    ranks: list[tuple[int, int]],
    stop: int,
    shuffle: bool,
) -> None:
    snapshot = worlds[world]
    make = maker(snapshot, sequence=length, shuffle=shuffle)
    seen, state = [], None
    for place, (count, workers) in enumerate(ranks):
        batches, datasets = world_batches(make, count, workers, 1, state)
        if place == 0:
            batches = [each[:stop] for each in batches]
            last = [each[-1] for each in batches if len(each) == stop > 0]
            if len(last) < count:
                batches = [[] for _ in batches]
            else:
                state = datasets[0].state_after(last[0])
        seen += runs(batches)
    wanted = wanted_runs(snapshot, length)
    assert sorted(seen) == sorted(wanted)
    data = make()
    assert data.left_out == len(snapshot) - length * len(wanted)


def test_a_batch_of_sequences(worlds: list[Snapshot]) -> None:
    for batch in maker(worlds[0], sequence=3)():
        assert batch["fsq"].shape[1:] == (3, 1, 1, 2)
        assert (batch["clip_index"].diff(dim=1) == 1).all()
        for names, clips in zip(batch["clip_id"], batch["fsq"], strict=True):
            for name, cells in zip(names, clips, strict=True):
                # A unit that was done again has other cells; which one it is, is tested elsewhere.
                assert cells[0, 0, 0] == cells_of("fsq", name)[0, 0, 0]


def side(key: str, holdout: float) -> str:
    """Return the side of a sample, by the rule of the documentation alone."""
    number = int.from_bytes(hashlib.sha256(f"holdout {key}".encode()).digest()[:8], "big")
    return "validation" if number < holdout * 2**64 else "train"


@given(
    world=st.integers(0, 5),
    holdout=st.sampled_from([0.1, 0.3, 0.5]),
    count=st.integers(1, 3),
    workers=st.integers(0, 2),
)
@settings(max_examples=8)
def test_each_sample_is_on_one_side(
    worlds: list[Snapshot], world: int, holdout: float, count: int, workers: int
) -> None:
    rows = {name: row["key"] for (_, name), row in rows_of(worlds[world]).items()}
    for split in ("train", "validation"):
        make = maker(worlds[world], split=split, holdout=holdout)
        ranks, datasets = world_batches(make, count, workers)
        seen = [name for batches in ranks for batch in batches for name in batch["clip_id"]]
        wanted = [name for name, key in rows.items() if side(key, holdout) == split]
        assert sorted(seen) == sorted(wanted)
        assert sum(map(len, datasets)) == sum(map(len, ranks)), "the length is known before"
        assert datasets[0].left_out == 0


def test_the_share_is_that_of_the_samples(tmp_path: Path) -> None:
    clips = [(SMALL, replace(make_clip("u", 0), key=f"{n:05}")) for n in range(4000)]
    store = Store(str(tmp_path / "out"))
    write_sibling(store, head("fsq"), {"u": clips})
    for holdout in (0.01, 0.1, 0.5):
        data = maker(pipeline.open(store.uri), split="validation", holdout=holdout, batch=1)()
        sigma = (4000 * holdout * (1 - holdout)) ** 0.5
        assert abs(len(data) - 4000 * holdout) < 3 * sigma
    small, large = (
        {
            name
            for batch in maker(pipeline.open(store.uri), split="validation", holdout=share)()
            for name in batch["clip_id"]
        }
        for share in (0.01, 0.1)
    )
    assert small < large, "a larger share holds the smaller one"


def test_sides_stay_when_a_dataset_grows_is_compacted_and_joined(tmp_path: Path) -> None:
    rng = Random(7)
    units = made_units(rng, units=6)
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    sizes = {"row_group_bytes": 500, "max_part_bytes": 2000}
    dataset = head("fsq")
    some = {name: units[name] for name in list(units)[:3]}

    def held(corpus: Any, **options: Any) -> set[str]:
        data = maker(corpus, split="validation", holdout=0.4, **options)()
        return {name for batch in data for name in np.ravel(batch["clip_id"])}

    write_sibling(one, dataset, some, **sizes)
    before = held(pipeline.open(one.uri))
    assert 0 < len(before) < len(pipeline.open(one.uri))
    write_sibling(one, dataset, {name: units[name] for name in list(units)[3:]}, **sizes)
    grown = held(pipeline.open(one.uri))
    assert {name for name in grown if name.split("/")[0] in some} == before
    compact(one, part_bytes=1 << 20)
    assert held(pipeline.open(one.uri)) == grown
    write_sibling(other, head("kl"), dict(reversed(units.items())))
    joined = pipeline.open(other.uri).join(pipeline.open(one.uri))
    assert held(joined) == grown
    scores = pa.table({"clip_id": sorted(grown)[1:], "score": [0.5] * (len(grown) - 1)})
    pq.write_table(scores, tmp_path / "scores.parquet")
    joined = joined.join(str(tmp_path / "scores.parquet"))
    whole = {name for run in wanted_runs(pipeline.open(one.uri), 2) for name in run}
    pairs = TokenDataset(
        joined, ["clip_id", "kl", "fsq", "score"], 2, split="validation", holdout=0.4, sequence=2
    )
    seen = set()
    for batch in pairs:
        assert batch["score"].shape == batch["kl"].shape[:2] == batch["fsq"].shape[:2]
        for n, names in enumerate(batch["clip_id"]):
            for k, name in enumerate(names):
                seen.add(name)
                assert batch["kl"][n, k].flatten()[0] == cells_of("kl", name).flat[0]
                assert batch["fsq"][n, k].flatten()[0] == cells_of("fsq", name).flat[0]
                assert batch["score"][n, k].isnan() == (name == sorted(grown)[0])
    assert seen == grown & whole


def test_forgotten_samples_are_in_no_selection(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    write_sibling(store, head("fsq"), made_units(Random(3)), row_group_bytes=500)
    before = pipeline.open(store.uri)
    wanted = wanted_runs(before, 2)
    keys = [f"u-{unit}-{sample}" for unit in (0, 2) for sample in (1, 4)]
    requests = Requests()
    for key in keys:
        requests.add_key(key)
    forget(store, requests)
    after = pipeline.open(store.uri)
    assert len(after) < len(before)
    seen = runs([list(maker(after, sequence=2)())])
    left = {run for run in wanted if run[0].split("/")[1] not in keys}
    assert sorted(seen) == sorted(left)
    assert len(left) < len(wanted)
    held = {
        key
        for split in ("train", "validation")
        for batch in TokenDataset(after, ["key"], 3, split=split, holdout=0.5)
        for key in batch["key"]
    }
    assert held
    assert not held & set(keys)


def test_real_workers_read_a_selection(worlds: list[Snapshot]) -> None:
    data = maker(worlds[1], batch=1, sequence=2, split="train", holdout=0.2)()
    alone = [batch["clip_id"] for batch in data]
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2)
    assert [batch["clip_id"] for batch in loader] == alone
    assert len(alone) == len(loader) > 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"split": "test", "holdout": 0.1}, "split = 'test': must be train or validation"),
        ({"split": "train"}, "split and holdout: set both"),
        ({"holdout": 0.1}, "split and holdout: set both"),
        ({"split": "train", "holdout": 1.0}, "holdout = 1.0: must be above 0 and below 1"),
        ({"sequence": 1}, "sequence = 1: must be 2 or more"),
        ({"start": "first"}, "start = 'first': places windows; set window, or leave it out"),
        ({"sequence": 2, "window": 3}, "sequence and window: a whole video is one clip"),
    ],
)
def test_wrong_arguments(worlds: list[Snapshot], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        maker(worlds[0], **options)()


def test_a_state_of_other_rows_is_refused(worlds: list[Snapshot]) -> None:
    state = maker(worlds[0], split="train", holdout=0.2)().state_dict()
    with pytest.raises(ConfigError, match=r"state: "):
        maker(worlds[0], split="validation", holdout=0.2)().load_state_dict(state)
    with pytest.raises(ConfigError, match=r"state: "):
        maker(worlds[0])().load_state_dict(state)


def test_clips_of_several_buckets_are_in_no_sequence(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    write_sibling(store, head("fsq", every_bucket=True), {"u": [(SMALL, make_clip("u", 0))]})
    with pytest.raises(ConfigError, match="sequence = 2: the clips of a sample are of several"):
        maker(pipeline.open(store.uri), sequence=2)()


def test_nothing_is_left(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    write_sibling(store, head("fsq"), {"u": [(SMALL, make_clip("u", 0))]})
    data = maker(pipeline.open(store.uri), sequence=2)()
    assert (len(data), list(data), data.left_out) == (0, [], 1)
