"""Joined datasets read as one dataset with the columns of both."""

import json
import logging
import pickle
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.records import state_of
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.compact import compact
from pipeline.reading import Joined, Snapshot, TokenDataset, TokenMap
from pipeline.storage.store import Store
from tests.pipeline.reading.siblings import (
    Unit,
    cells_of,
    do_again,
    head,
    make_unit,
    rows_of,
    write_anyhow,
    write_sibling,
)
from tests.pipeline.reading.worlds import Batch, world_batches

LEFT, RIGHT = head("left"), head("right")
COLUMNS = ["right", "clip_id", "left", "start_s", "caption"]

Row = tuple[str, list[int], list[int], float, str | None]


def flat(batch: Batch) -> list[Row]:
    """Return the rows of a batch, each with its bucket."""
    return [
        (f"{batch['bucket']}/{clip}", left.flatten().tolist(), right.flatten().tolist(), t, text)
        for clip, left, right, t, text in zip(
            batch["clip_id"],
            batch["left"],
            batch["right"],
            batch["start_s"].tolist(),
            batch["caption"],
            strict=True,
        )
    ]


def reference(left: Snapshot, right: Snapshot) -> list[Row]:
    """Return the rows of one dataset with both columns."""
    ours, theirs = rows_of(left), rows_of(right)
    return sorted(
        (
            f"{bucket}/{clip}",
            memoryview(ours[bucket, clip]["left"]).cast("I").tolist(),
            memoryview(theirs[bucket, clip]["right"]).cast("I").tolist(),
            ours[bucket, clip]["start_s"],
            ours[bucket, clip]["caption"],
        )
        for bucket, clip in ours.keys() & theirs.keys()
    )


@given(
    rng=st.randoms(),
    worlds=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3),
    steps=st.lists(st.integers(1, 6), min_size=2, max_size=2),
    batch=st.integers(1, 4),
    strands=st.integers(1, 4),
    shuffle=st.booleans(),
)
@settings(max_examples=15)
def test_it_equals_one_dataset_with_both_columns(
    rng: Random,
    worlds: list[tuple[int, int]],
    steps: list[int],
    batch: int,
    strands: int,
    shuffle: bool,
) -> None:
    units = {f"u-{n}": make_unit(f"u-{n}", rng.randrange(12)) for n in range(4)}
    with TemporaryDirectory() as folder:
        for dataset in (LEFT, RIGHT):
            store = Store(f"{folder}/{dataset.tokenizers[0].name}")
            write_anyhow(store, dataset, units, rng)
        left, right = (pipeline.open(f"{folder}/{side}") for side in ("left", "right"))
        joined = left.join(right)
        wanted = reference(left, right)
        assert len(joined) == len(wanted) == sum(joined.buckets.values())
        by_number = TokenMap(joined, COLUMNS)
        one_each = [by_number[n] for n in range(len(by_number))]
        assert sorted(one_row(row) for row in one_each) == wanted
        [missing] = joined.missing
        assert missing.clips_here == len(left) - len(wanted)
        assert missing.clips_there == len(right) - len(wanted)
        make = partial(
            TokenDataset,
            joined,
            COLUMNS,
            batch,
            pool_rows=2 * batch,
            strands=strands,
            shuffle=shuffle,
        )
        state: Any = None
        seen: list[Row] = []
        for (world, workers), stop in zip(worlds, [*steps[: len(worlds) - 1], None], strict=False):
            ranks, datasets = world_batches(make, world, workers, 0, state)
            done = [batches[:stop] for batches in ranks]
            seen += [row for batches in done for one in batches for row in flat(one)]
            if stop:
                if min(map(len, done)) < stop:
                    return  # ranks with no batch left: the epoch is over
                state = json.loads(json.dumps(datasets[0].state_after(ranks[0][stop - 1])))
        assert sorted(seen) == wanted


def one_row(row: dict[str, Any]) -> Row:
    [found] = flat(
        {
            "bucket": row["bucket"],
            "start_s": row["start_s"][None],
            **{name: [row[name]] for name in ("clip_id", "left", "right", "caption")},
        }
    )
    return found


@pytest.fixture
def units() -> dict[str, Unit]:
    return {f"u-{n}": make_unit(f"u-{n}", 9) for n in range(3)}


@pytest.fixture
def pair(tmp_path: Path, units: dict[str, Unit]) -> tuple[Store, Store]:
    stores = Store(str(tmp_path / "left")), Store(str(tmp_path / "right"))
    for store, dataset in zip(stores, (LEFT, RIGHT), strict=True):
        write_sibling(store, dataset, units, row_group_bytes=700)
    return stores


def opened(pair: tuple[Store, Store]) -> Joined:
    return pipeline.open(pair[0].uri).join(pipeline.open(pair[1].uri))


def right_of(joined: Joined) -> dict[str, list[int]]:
    rows = TokenMap(joined, ["clip_id", "right"])
    found = (rows[n] for n in range(len(rows)))
    return {row["clip_id"]: row["right"].flatten().tolist() for row in found}


def test_what_one_side_lacks_is_left_out_and_said(
    pair: tuple[Store, Store], units: dict[str, Unit], caplog: pytest.LogCaptureFixture
) -> None:
    write_sibling(pair[0], LEFT, {"u-3": make_unit("u-3", 4)})
    write_sibling(pair[1], RIGHT, {"u-4": make_unit("u-4", 1), "u-5": make_unit("u-5", 1)})
    do_again(pair[1], RIGHT, "u-1", units["u-1"][2:])
    with caplog.at_level(logging.WARNING):
        joined = opened(pair)
    assert len(joined) == 25
    [missing] = joined.missing
    assert (missing.units_here, missing.clips_here) == (1, 6)
    assert (missing.units_there, missing.clips_there) == (2, 2)
    [message] = caplog.messages
    assert message == (
        f"join: 6 clips (1 whole unit) without a row in {pair[1].uri};"
        " 2 rows (2 whole units) of it without a clip"
    )


def test_nothing_is_said_where_nothing_is_missing(
    pair: tuple[Store, Store], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(opened(pair)) == 27
    assert not caplog.messages


def test_a_unit_that_was_done_again_in_another_order_and_merged_is_followed(
    pair: tuple[Store, Store], units: dict[str, Unit]
) -> None:
    do_again(pair[1], RIGHT, "u-1", units["u-1"][::-1])
    compact(pair[1], part_bytes=1 << 20)
    joined = opened(pair)
    assert len(joined) == 27
    for clip, cells in right_of(joined).items():
        edition = 1 if clip.startswith("u-1/") else 0
        assert cells == cells_of("right", clip, edition).flatten().tolist()


def test_rows_made_from_a_unit_that_was_done_again_since_are_left_out(
    pair: tuple[Store, Store], units: dict[str, Unit], tmp_path: Path
) -> None:
    store, dataset = Store(str(tmp_path / "texts")), head("text", LEFT)
    for record in read_manifest(pair[0]).units():
        clips = units[record.unit]
        write_sibling(store, dataset, {record.unit: clips}, source=state_of(record))
    before, texts = pipeline.open(pair[0].uri), pipeline.open(store.uri)
    compact(pair[0], part_bytes=1 << 20)
    assert len(pipeline.open(pair[0].uri).join(texts)) == 27
    do_again(pair[0], LEFT, "u-1", units["u-1"])
    joined = pipeline.open(pair[0].uri).join(texts)
    assert len(joined) == 18
    assert (joined.missing[0].units_stale, joined.missing[0].clips_here) == (1, 9)
    assert str(joined.missing[0]).endswith(
        "; 1 unit was done again since embeddings were made from them: run `embed` again"
    )
    assert len(before.join(texts)) == 27, "the version that it was made from"
    left, right = (pipeline.open(store.uri) for store in pair)
    for other in (
        texts.join(left),
        right.join(left).join(texts),
        right.join(texts).join(left),
    ):
        assert (len(other), other.missing[-1].units_stale) == (18, 1), "in any order"
    newer = Store(str(tmp_path / "newer"))
    for record in read_manifest(pair[0]).units():
        clips = {record.unit: units[record.unit]}
        write_sibling(newer, head("newer", LEFT), clips, source=state_of(record))
    both = texts.join(pipeline.open(newer.uri))
    assert (len(both), both.missing[-1].units_stale) == (18, 1), "siblings of two states"
    assert len(left.join(pipeline.open(newer.uri))) == 27


def test_versions_are_pinned(pair: tuple[Store, Store], units: dict[str, Unit]) -> None:
    joined = opened(pair)
    assert joined.version == "3+3"
    assert joined.fingerprint == f"{LEFT.fingerprint}+{RIGHT.fingerprint}"
    do_again(pair[1], RIGHT, "u-1", units["u-1"][:1])
    newer = opened(pair)
    assert (newer.version, len(newer)) == ("3+5", 19)
    older = pipeline.open(pair[0].uri).join(pipeline.open(pair[1].uri, 3))
    assert right_of(older) == right_of(joined) != right_of(newer)


def test_a_state_of_another_version_of_either_side_is_refused(
    pair: tuple[Store, Store], units: dict[str, Unit]
) -> None:
    state = TokenDataset(opened(pair), ["left"], 2).state_dict()
    do_again(pair[1], RIGHT, "u-1", units["u-1"])
    with pytest.raises(ConfigError, match=r"state: version = '3\+3', this dataset has '3\+5'"):
        TokenDataset(opened(pair), ["left"], 2).load_state_dict(state)
    alone = TokenDataset(pipeline.open(pair[0].uri), ["left"], 2)
    with pytest.raises(ConfigError, match="state: fingerprint = "):
        alone.load_state_dict(state)


def test_a_state_of_columns_of_other_sides_is_refused(
    tmp_path: Path, units: dict[str, Unit]
) -> None:
    """The order of rows follows the row groups of the sides that are read."""
    stores = Store(str(tmp_path / "left")), Store(str(tmp_path / "right"))
    write_sibling(stores[0], LEFT, units, row_group_bytes=300)
    write_sibling(stores[1], RIGHT, units, row_group_bytes=1200)
    make = partial(TokenDataset, opened(stores), batch=2, pool_rows=2, strands=1)
    data = make(["clip_id", "left"])
    first, *rest = [batch["clip_id"] for batch in data]
    state = json.loads(json.dumps(data.state_after(next(iter(data)))))
    for columns in (["clip_id", "right"], ["clip_id", "left", "right"], ["right"]):
        with pytest.raises(ConfigError, match=r"state: sides = \[0\], this dataset has"):
            make(columns).load_state_dict(state)
    for columns in (["clip_id"], ["caption", "clip_id", "left_shape"]):
        again = make(columns)
        again.load_state_dict(state)
        assert [batch["clip_id"] for batch in again] == rest
    assert first not in rest


def test_only_the_sides_that_are_asked_for_are_read(pair: tuple[Store, Store]) -> None:
    joined = opened(pair)
    for part in pipeline.open(pair[0].uri).parts():
        pair[0].delete(part.path)
    assert sum(len(batch["right"]) for batch in TokenDataset(joined, ["right"], 4)) == 27
    with pytest.raises(StoreError, match=r"left/data/.*: missing"):
        list(TokenDataset(joined, ["left", "right"], 4))


def test_a_reader_goes_to_another_process(pair: tuple[Store, Store]) -> None:
    data = TokenDataset(opened(pair), COLUMNS, 4)
    whole = [row for batch in data for row in flat(batch)]
    copy = pickle.loads(pickle.dumps(data))
    assert [row for batch in copy for row in flat(batch)] == whole


def test_three_datasets(pair: tuple[Store, Store], units: dict[str, Unit], tmp_path: Path) -> None:
    third, dataset = Store(str(tmp_path / "third")), head("third")
    write_sibling(third, dataset, {"u-2": units["u-2"], "u-0": units["u-0"][:5]})
    joined = opened(pair).join(pipeline.open(third.uri))
    assert len(joined) == 14
    assert [each.clips_here for each in joined.missing] == [0, 13]
    rows = TokenMap(joined, ["third", "clip_id", "left", "right"])
    for row in (rows[n] for n in range(len(rows))):
        for name in ("left", "right", "third"):
            assert row[name].tolist() == cells_of(name, row["clip_id"]).tolist()


def test_larger_row_groups_are_read_once(
    tmp_path: Path, units: dict[str, Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.reading.row_groups import RowGroups

    stores = Store(str(tmp_path / "left")), Store(str(tmp_path / "right"))
    write_sibling(stores[0], LEFT, units, row_group_bytes=300)
    write_sibling(stores[1], RIGHT, units, row_group_bytes=1200)
    reads: list[tuple[str, int]] = []
    read = RowGroups.read

    def counted(self: RowGroups, part: Any, groups: Any) -> Any:
        reads.extend((part.path, group) for group in groups)
        return read(self, part, groups)

    monkeypatch.setattr(RowGroups, "read", counted)
    list(TokenDataset(opened(stores), COLUMNS, 3, pool_rows=6, strands=1))
    for name, buckets in (("right", 2), ("left", 2)):
        paths = {part.path for part in pipeline.open(str(tmp_path / name)).parts()}
        here = [each for each in reads if each[0] in paths]
        assert len(here) - len(set(here)) <= buckets + 2 * (name == "left") * len(units)


def test_a_prefix_tells_names_apart(pair: tuple[Store, Store]) -> None:
    left = pipeline.open(pair[0].uri)
    joined = left.join(left, prefix="again_")
    rows = TokenMap(joined, ["left", "again_left", "again_caption", "caption"])
    for row in (rows[n] for n in range(len(rows))):
        assert row["left"].tolist() == row["again_left"].tolist()
        assert row["caption"] == row["again_caption"]


def test_what_cannot_be_joined(pair: tuple[Store, Store], tmp_path: Path) -> None:
    left, right = (pipeline.open(store.uri) for store in pair)
    with pytest.raises(ConfigError, match=r"both sides of the join have left, left_shape; give"):
        left.join(left)
    with pytest.raises(ConfigError, match="one after another"):
        left.join(left.join(right))
    with pytest.raises(ConfigError, match="on clip_id"):
        left.join(right, on="key")
    other = Store(str(tmp_path / "other"))
    write_sibling(other, head("other", fps=12.0), {})
    with pytest.raises(ConfigError, match=r"other: clip.fps = 12.0, and 8.0 in .*left"):
        left.join(pipeline.open(other.uri))
    with pytest.raises(ConfigError, match=r"columns = \['top'\]: must be some of clip_id, .*right"):
        TokenDataset(left.join(right), ["top"], 1)


def test_an_id_that_occurs_twice_is_refused(
    tmp_path: Path, pair: tuple[Store, Store], units: dict[str, Unit]
) -> None:
    store = Store(str(tmp_path / "twice"))
    write_sibling(store, head("third"), {"u-0": [*units["u-0"][1:], units["u-0"][1]]})
    with pytest.raises(StoreError, match="two rows of a unit have one clip_id; run"):
        pipeline.open(store.uri).join(pipeline.open(pair[1].uri))


def test_nothing_in_common(pair: tuple[Store, Store], tmp_path: Path) -> None:
    store = Store(str(tmp_path / "none"))
    write_sibling(store, head("third"), {})
    joined = pipeline.open(pair[0].uri).join(pipeline.open(store.uri))
    assert (len(joined), joined.buckets) == (0, {})
    assert list(TokenDataset(joined, ["left"], 2)) == []
