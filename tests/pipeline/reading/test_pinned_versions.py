"""Nothing across versions: a pinned one yields its rows in its order, whatever the log adds later.

What it adds are units, units that are done again, and the moves of a compaction.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest, write_manifest
from pipeline.dataset.metadata import open_dataset
from pipeline.dataset.records import UnitRecord
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.compact import compact
from pipeline.operations.forget.forget import forget
from pipeline.operations.forget.requests import Requests
from pipeline.operations.retry import retry
from pipeline.reading import Snapshot, TokenDataset, TokenMap
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET, commit
from tests.pipeline.reading.siblings import do_again, head, make_unit, write_sibling
from tests.pipeline.units import deliver

COLUMNS = ["clip_id", "fsq"]

Rows = list[tuple[str, bytes]]

sizes = st.lists(st.integers(1, 3), min_size=1, max_size=3)
steps = st.one_of(
    st.tuples(st.just("commit"), sizes),
    st.tuples(st.just("again"), sizes),
    st.sampled_from([("retry", []), ("compact", []), ("checkpoint", [])]),
)


def rows(snapshot: Snapshot) -> tuple[Rows, Rows, int, Any]:
    """Return a version's rows as batches bring them, by number, how many, and what they sum to."""
    shuffled: Rows = []
    for batch in TokenDataset(snapshot, COLUMNS, 2, strands=2, pool_rows=4):
        cells = [one.numpy().tobytes() for one in batch["fsq"]]
        shuffled += zip(batch["clip_id"], cells, strict=True)
    by_number = TokenMap(snapshot, COLUMNS)
    plain = [(row["clip_id"], row["fsq"].numpy().tobytes()) for row in map_rows(by_number)]
    return shuffled, plain, len(snapshot), snapshot.statistics().buckets


def map_rows(table: TokenMap) -> list[dict[str, Any]]:
    return table.__getitems__(range(len(table))) if len(table) else []


def done(store: Store, name: str, batches: list[int], *, well: bool) -> UnitRecord:
    """Write a unit's parts; one that was not well has a sample for `retry` to choose it by."""
    return commit(store, deliver(name, batches=batches, unreadable=0 if well else 1))


def take(store: Store, step: tuple[str, list[int]], number: int) -> None:
    """Do one step to a dataset, as the job and the commands do it."""
    kind, batches = step
    log = CommitLog(store, fingerprint=DATASET.fingerprint, run=f"run {number}")
    if kind == "commit":
        log.append([done(store, f"u-{number}", batches, well=False)])
    elif kind == "again":
        for unit in sorted(read_manifest(store).reopened)[:1]:
            log.append([done(store, unit, batches, well=True)])
    elif kind == "retry":
        retry(store, ["corrupt"])
    elif kind == "compact":
        compact(store, part_bytes=1 << 20)
    else:
        write_manifest(store)


@settings(max_examples=12)
@given(st.lists(steps, min_size=2, max_size=7))
@example(
    [
        ("commit", [3, 2]),
        ("commit", [1, 1, 3]),
        ("compact", []),
        ("retry", []),
        ("again", [2]),
        ("checkpoint", []),
        ("compact", []),
        ("again", [1, 3]),
    ]
)
def test_a_pinned_version_is_never_added_to(taken: list[tuple[str, list[int]]]) -> None:
    with TemporaryDirectory() as folder:
        store = Store(f"{folder}/corpus")
        open_dataset(store, DATASET)
        pinned: list[tuple[Snapshot, Any]] = []
        for number, step in enumerate(taken):
            take(store, step, number)
            snapshot = pipeline.open(store.uri)
            found = rows(snapshot)
            assert sorted(found[0]) == sorted(found[1])
            assert len(found[0]) == len({name for name, _ in found[0]}) == found[2]
            pinned.append((snapshot, found))
        for snapshot, before in pinned:
            assert rows(snapshot) == before
            assert rows(pipeline.open(store.uri, snapshot.version)) == before


def test_a_version_with_forgotten_samples_stays_refused_when_their_unit_is_done_again(
    tmp_path: Path,
) -> None:
    """The source may not have them any more, so the newer record counts none as forgotten."""
    store, dataset = Store(str(tmp_path / "corpus")), head("fsq")
    units = {name: make_unit(name, 9) for name in ("u-0", "u-1")}
    write_sibling(store, dataset, units)
    do_again(store, dataset, "u-1", units["u-1"][:6])
    before = pipeline.open(store.uri).version
    requests = Requests()
    requests.add_key("k1", "u-0")
    forget(store, requests)
    left = [(bucket, clip) for bucket, clip in units["u-0"] if clip.key != "k1"]
    for _ in range(2):
        for version in (2, before):
            with pytest.raises(StoreError, match=r"samples in 1 unit that were forgotten since"):
                pipeline.open(store.uri, version)
        do_again(store, dataset, "u-0", left)
    forgotten = pipeline.open(store.uri).version
    do_again(store, dataset, "u-1", units["u-1"])
    assert len(pipeline.open(store.uri, forgotten)) == len(left) + 6, "nothing of it was forgotten"


@pytest.mark.parametrize("version", ["1", 1.0, True])
def test_a_version_is_a_whole_number(tmp_path: Path, version: Any) -> None:
    store = Store(str(tmp_path / "corpus"))
    write_sibling(store, head("fsq"), {})
    with pytest.raises(ConfigError, match=f"version = {version!r}: must be a whole number"):
        pipeline.open(store.uri, version)
    with pytest.raises(ConfigError, match="n = -1: must be 0 or more"):
        pipeline.open(store.uri).sample(-1)
