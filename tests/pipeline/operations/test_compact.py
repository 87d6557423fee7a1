"""Small parts become large ones; whatever happens meanwhile, every row counts once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import pipeline.operations.compact
from pipeline.__main__ import app
from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.log_records import read_record, record_path
from pipeline.dataset.manifest import manifest_path, read_manifest, replay_log, write_manifest
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.records import Part, Reopened, UnitRecord
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.errors import ConfigError, StoreError
from pipeline.job.remaining import subtract
from pipeline.operations.compact import Compaction, compact
from pipeline.operations.diff import diff
from pipeline.operations.report.page import report
from pipeline.operations.status import status
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.records import to_json
from pipeline.sources.planning import plan_units
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET, commit, sound, write_log
from tests.pipeline.units import SCHEMA, deliver

WIDE, SMALL = "9x16x32", "5x16x16"


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def open_log(store: Store) -> CommitLog:
    return CommitLog(store, fingerprint=DATASET.fingerprint, run="a test")


def content(store: Store) -> dict[str, list[pa.Table]]:
    """Return the rows of every unit by bucket, as a reader of the log finds them, in its order."""
    found: dict[str, list[pa.Table]] = {}
    for unit in read_manifest(store).units():
        buckets: dict[str, list[pa.Table]] = {}
        for part in unit.parts:
            with open_parquet(store, part.path) as parquet:
                buckets.setdefault(part.bucket, []).extend(unit_rows(parquet, part))
        found[unit.unit] = [pa.concat_tables(tables) for tables in buckets.values()]
    return found


def globbed(store: Store) -> list[str]:
    """Return the ids that one who reads all files finds, sorted."""
    return sorted(
        clip
        for path in store.list("data")
        for clip in pq.read_table(pa.BufferReader(store.read(path)))["clip_id"].to_pylist()
    )


def ids(store: Store) -> list[str]:
    tables = [table for tables in content(store).values() for table in tables]
    return sorted(clip for table in tables for clip in table["clip_id"].to_pylist())


def named(store: Store) -> set[str]:
    return {part.path for part in read_manifest(store).parts()}


def age(store: Store, hours: float) -> None:
    when = time.time() - hours * 3600
    for file in list(store.files()):
        os.utime(store.locate(file.path), (when, when))


def redo(store: Store, unit: str, **options: Any) -> UnitRecord:
    """Reopen a unit, and commit it again."""
    log = open_log(store)
    known = next(record for record in read_manifest(store).units() if record.unit == unit)
    assert log.reopen([Reopened(unit=unit, sources=known.sources)]) == (unit,)
    again = commit(store, deliver(unit, **options))
    assert log.append([again]).ours == (unit,)
    return again


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something happen between the first merged part and its record."""
    merge = pipeline.operations.compact._merge

    def merge_then_act(*arguments: Any) -> Part:
        monkeypatch.setattr(pipeline.operations.compact, "_merge", merge)
        part = merge(*arguments)
        act()
        return part

    monkeypatch.setattr(pipeline.operations.compact, "_merge", merge_then_act)


def test_rows_counts_and_order_stay(store: Store) -> None:
    sound(store, units=6)
    before, counts = content(store), status(store).tally
    old = named(store)
    result = compact(store)
    assert (result.files_before, result.files_after, result.rows) == (12, 2, 42)
    assert (result.rows_left_out, result.changed_meanwhile) == (0, 0)
    assert content(store) == before
    after = status(store).tally
    assert (after.counts, after.reasons, after.problems) == (counts.counts, counts.reasons, [])
    assert after.bytes == result.bytes_after == sum(store.size(path) for path in named(store))
    assert report(store).sizes[SMALL].files == 1
    checked = verify(store)
    assert checked.findings == []
    assert (checked.rows, checked.files, checked.read) == (42, 8, 8)
    assert sorted(checked.unnamed) == sorted(old)

    assert {file.path for file in vacuum(store, older_than_hours=0, delete=True).garbage} == old
    assert globbed(store) == ids(store)
    assert verify(store).findings == []
    assert content(store) == before
    assert compact(store).lines() == [f"nothing to merge in {store.uri}"]


def test_the_same_log_gives_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        store = Store(str(tmp_path / name))
        sound(store, units=4)
        compact(store)
        digests.append([(part.sha256, part.place) for part in read_manifest(store).parts()])
    assert digests[0] == digests[1]
    assert not named(Store(str(tmp_path / "a"))) & named(Store(str(tmp_path / "b")))


def test_a_compacted_dataset_differs_in_nothing(tmp_path: Path) -> None:
    a, b = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    for store in (a, b):
        sound(store, units=4)
    compact(b)
    found = diff(a, b)
    assert (found.exit_code, found.clips_both) == (0, 28)
    compact(a)
    assert diff(a, b).exit_code == 0
    redo(b, "u-1", lost=[5])
    assert diff(a, b).clips_only["a"].examples == ["u-1/k2/1"]


def test_every_row_can_be_drawn(local: Store) -> None:
    sound(local)
    wanted = ids(local)
    compact(local)
    rows = [read_row(local, drawn) for drawn in draw_rows(read_manifest(local), 1000, seed=1)]
    assert sorted(row["clip_id"] for row in rows) == wanted


def test_only_small_parts_are_merged_and_parts_end_when_they_are_large(local: Store) -> None:
    records = [commit(local, deliver(f"u-{n}", batches=(3, 1))) for n in range(7)]
    records.insert(3, commit(local, deliver("big", batches=(40,))))
    write_log(local, records)
    before = content(local)
    sizes = [part.bytes for record in records for part in record.parts if part.bucket == SMALL]
    small = sizes[0]
    assert sizes[3] > small + 1000
    # Of seven small ones three make a part, two times; one is left, and stays alone.
    result = compact(local, part_bytes=3 * small - 500, small_share=(small + 500) / (3 * small))
    parts = read_manifest(local).parts(SMALL)
    assert [part.place.of_rows if part.place else None for part in parts] == [
        *[9] * 3,
        None,
        *[9] * 3,
        None,
    ]
    assert result.files_after >= 2
    assert content(local) == before
    assert verify(local).findings == []


def test_units_of_several_parts_and_row_groups(local: Store) -> None:
    records = [
        commit(local, deliver(f"u-{n}", batches=(5, 3, 4)), row_group_bytes=1, max_part_bytes=size)
        for n, size in enumerate((1, 1, 10_000))
    ]
    write_log(local, records)
    assert max(len(record.parts) for record in records) > 4
    before = content(local)
    compact(local)
    assert len(named(local)) == 2
    assert [t.to_pylist() for ts in content(local).values() for t in ts] == [
        t.to_pylist() for ts in before.values() for t in ts
    ]
    assert verify(local).findings == []
    [groups] = {
        pq.ParquetFile(local.locate(path)).num_row_groups for path in named(local) if SMALL in path
    }
    assert groups == 1, "cut anew"


def test_a_unit_in_a_merged_part_is_done_again(local: Store) -> None:
    sound(local, units=4)
    compact(local)
    before = content(local)
    again = redo(local, "u-1", lost=[0, 5])
    now = content(local)
    assert [unit for unit in before if before[unit] != now[unit]] == ["u-1"]
    assert list(now) == ["u-0", "u-2", "u-3", "u-1"]
    assert verify(local).findings == []
    left = vacuum(local, older_than_hours=0, delete=True)
    assert sum("merged-" in file.path for file in left.garbage) == 0
    # The old rows of the unit lie in the merged part, until that is written anew.
    assert globbed(local) != ids(local)
    result = compact(local)
    assert result.rows_left_out == 7
    assert content(local) == now
    assert {part.path for part in again.parts}.isdisjoint(named(local))
    vacuum(local, older_than_hours=0, delete=True)
    assert globbed(local) == ids(local)
    assert verify(local).findings == []


def test_rows_that_no_longer_count_are_left_out_of_large_parts_too(local: Store) -> None:
    sound(local, units=3)
    compact(local)
    redo(local, "u-0")
    result = compact(local, part_bytes=1)
    assert (result.files_before, result.rows_left_out) == (2, 7)
    assert verify(local).findings == []


def test_reopened_units_stay_where_they_are(local: Store) -> None:
    records = sound(local, units=3)
    open_log(local).reopen([Reopened(unit="u-1", sources=records[1].sources)])
    assert compact(local).files_before == 4
    manifest = read_manifest(local)
    assert list(manifest.units())[1] == records[1]
    assert manifest.reopened == {"u-1"}
    assert compact(local).files_before == 0
    open_log(local).append([commit(local, deliver("u-1"))])
    assert compact(local).files_before == 4
    assert verify(local).findings == []


def test_the_next_run_does_nothing_again(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(3):
        (tmp_path / f"in/u-{n}.tar").touch()
    units = plan_units([str(tmp_path / "in")])
    store = Store(str(tmp_path / "corpus"))
    records = []
    for unit in units:
        delivery = deliver(unit.unit)
        delivery.unit = unit
        records.append(commit(store, delivery))
    write_log(store, records)
    compact(store)
    assert subtract(units, open_log(store).committed) == []
    assert open_log(store).append(records).lost == tuple(unit.unit for unit in units)
    assert verify(store).findings == []


class TestMeanwhile:
    def test_another_unit_is_committed(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        sound(store)
        late = commit(store, deliver("late"))
        meanwhile(monkeypatch, lambda: open_log(store).append([late]))
        assert compact(store).changed_meanwhile == 0
        assert list(content(store)) == ["u-0", "u-1", "u-2", "late"]
        assert verify(store).findings == []

    def test_a_unit_is_done_again(self, local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        sound(local)
        meanwhile(monkeypatch, lambda: redo(local, "u-1", lost=[1]))
        result = compact(local)
        assert (result.files_after, result.changed_meanwhile) == (0, 2)
        assert "k0/1" not in "".join(clip for clip in ids(local) if clip.startswith("u-1/"))
        assert verify(local).findings == []
        assert compact(local).files_after == 2
        assert verify(local).findings == []

    def test_a_unit_is_reopened(self, local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        records = sound(local)
        again = Reopened(unit="u-1", sources=records[1].sources)
        meanwhile(monkeypatch, lambda: open_log(local).reopen([again]))
        assert compact(local).changed_meanwhile == 2

    def test_another_compaction_is_first(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound(store)
        before = content(store)
        meanwhile(monkeypatch, lambda: compact(store))
        result = compact(store)
        assert (result.files_after, result.changed_meanwhile) == (0, 2)
        assert "run the command again" in result.lines()[0]
        assert content(store) == before
        assert verify(store).findings == []

    def test_another_compaction_is_first_and_the_old_parts_are_gone(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound(local)
        before = content(local)
        merge = pipeline.operations.compact._merge

        def act_then_merge(*arguments: Any) -> Part:
            monkeypatch.setattr(pipeline.operations.compact, "_merge", merge)
            compact(local)
            vacuum(local, older_than_hours=0, delete=True)
            return merge(*arguments)

        monkeypatch.setattr(pipeline.operations.compact, "_merge", act_then_merge)
        result = compact(local)
        assert (result.files_after, result.changed_meanwhile) == (0, 2)
        assert content(local) == before

    def test_vacuum_takes_the_merged_part(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound(store)
        before = content(store)
        meanwhile(monkeypatch, lambda: vacuum(store, older_than_hours=0, delete=True))
        result = compact(store)
        assert (result.files_after, result.changed_meanwhile) == (1, 1)
        assert content(store) == before
        assert verify(store).findings == []
        assert verify(store).unnamed == [path for path in verify(store).unnamed if WIDE in path]

    def test_vacuum_comes_when_the_record_stands(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It listed the merged part, and read the manifest, before the record was put."""
        sound(local)
        before = content(local)
        listed = pipeline.operations.vacuum.read_manifest  # type: ignore[attr-defined]
        old: list[Any] = []

        def stale(store: Store) -> Any:
            return old[0]

        meanwhile(monkeypatch, lambda: old.append(listed(local)))
        log = CommitLog
        made: list[CommitLog] = []

        def early(*arguments: Any, **options: Any) -> CommitLog:
            return made[0] if made else log(*arguments, **options)

        before_log = open_log(local)
        compact(local)
        made.append(before_log)
        monkeypatch.setattr("pipeline.operations.vacuum.read_manifest", stale)
        monkeypatch.setattr("pipeline.operations.vacuum.CommitLog", early)
        result = vacuum(local, older_than_hours=0, delete=True)
        assert len(result.young) == 2
        assert content(local) == before

    def test_two_at_once_and_a_job(self, store: Store) -> None:
        sound(store, units=4)
        late = [commit(store, deliver(f"late-{n}")) for n in range(4)]
        before = content(store)
        start = threading.Barrier(3)

        def work(act: Callable[[], object]) -> object:
            start.wait()
            return act()

        def job() -> None:
            log = open_log(store)
            for record in late:
                log.append([record])

        with ThreadPoolExecutor(3) as pool:
            acts: list[Callable[[], object]] = [lambda: compact(store, part_bytes=1 << 15)] * 2
            results = list(pool.map(work, [*acts, job]))
        merged = [result for result in results if isinstance(result, Compaction)]
        assert len(merged) == 2
        now = content(store)
        assert {unit: now[unit] for unit in before} == before
        assert len(now) == 8
        assert verify(store).findings == []


KILLED = """
import os, signal, sys
from pipeline.operations.compact import compact
from pipeline.dataset.commit_log import CommitLog
from pipeline.storage.store import StagedFile, Store

left = int(sys.argv[2])

def tick():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(owner, name):
    act = getattr(owner, name)
    def wrapped(*arguments, **options):
        tick()
        result = act(*arguments, **options)
        tick()
        return result
    setattr(owner, name, wrapped)

dying(StagedFile, "publish")
dying(CommitLog, "_put")
compact(Store(sys.argv[1]))
"""


def killed(store: Store, point: int) -> int:
    """Compact in a process that is killed before or after one of its writes; return its code."""
    command = [sys.executable, "-c", KILLED, store.uri, str(point)]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize("point", range(6), ids=lambda n: ("before", "after")[n % 2] + f"-{n // 2}")
def test_killed_at_any_point(local: Store, point: int) -> None:
    """Before or after the part, the record, the manifest."""
    write_log(local, [commit(local, deliver(f"u-{n}", batches=(2,))) for n in range(3)])
    before = content(local)
    assert killed(local, point) == -signal.SIGKILL
    assert content(local) == before
    assert verify(local).findings == []
    assert compact(local).files_after == (1 if point < 3 else 0)
    assert content(local) == before
    assert len(named(local)) == 1
    vacuum(local, older_than_hours=0, delete=True)
    assert globbed(local) == ids(local)
    assert verify(local).unnamed == []


def test_killed_at_no_other_point(local: Store) -> None:
    write_log(local, [commit(local, deliver(f"u-{n}", batches=(2,))) for n in range(3)])
    assert killed(local, 6) == 0


class TestVacuum:
    def test_what_a_killed_compaction_left(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound(local)
        monkeypatch.setattr(CommitLog, "move", lambda *_: False)
        compact(local)
        number = read_manifest(local).number
        assert len(vacuum(local, delete=True).young) == 2
        age(local, 25)
        assert len(vacuum(local).garbage) == 2
        assert read_manifest(local).number == number
        assert len(vacuum(local, delete=True).garbage) == 2
        record = read_record(local, number + 1)
        assert len(record.dropped) == 2
        assert verify(local).unnamed == []
        assert vacuum(local, older_than_hours=0, delete=True).garbage == []
        assert read_manifest(local).number == number + 1

    def test_a_day_is_counted_from_the_record_that_moved_the_rows(self, local: Store) -> None:
        """Until then a reader may hold a manifest that names the parts of before."""
        sound(local)
        age(local, 30)
        compact(local)
        assert len(vacuum(local, delete=True).young) == 6
        redo(local, "u-0")
        age(local, 30)
        compact(local, part_bytes=1 << 26)
        result = vacuum(local, delete=True)
        assert sum("merged-" in file.path for file in result.young) == 2
        age(local, 25)
        assert sum("merged-" in f.path for f in vacuum(local, delete=True).garbage) == 2
        assert verify(local).findings == []


class TestDamage:
    def test_damaged_parts_are_not_merged(self, local: Store) -> None:
        path = sound(local)[1].parts[0].path
        data = bytearray(local.read(path))
        data[len(data) // 2] ^= 1
        local.write(path, bytes(data))
        before = read_manifest(local)
        with pytest.raises(StoreError, match=r"SHA-256 .* run `python -m pipeline verify`"):
            compact(local)
        assert list(read_manifest(local).units()) == list(before.units())

    def test_missing_parts_are_not_merged(self, local: Store) -> None:
        local.delete(sound(local)[1].parts[0].path)
        with pytest.raises(StoreError, match="u-1-0-"):
            compact(local)

    def test_verify_finds_what_is_wrong_with_a_merged_part(self, local: Store) -> None:
        sound(local)
        compact(local)
        path = min(named(local))
        data = bytearray(local.read(path))
        data[len(data) // 2] ^= 1
        local.write(path, bytes(data))
        assert [(found.kind, found.where) for found in verify(local).findings] == [
            ("checksum", path)
        ]
        local.delete(path)
        assert {(found.kind, found.where) for found in verify(local).findings} == {
            ("missing", path)
        }

    @pytest.mark.parametrize(("first_row", "kind"), [(1, "rows"), (1000, "rows")])
    def test_verify_finds_a_wrong_place(self, local: Store, first_row: int, kind: str) -> None:
        sound(local)
        compact(local)
        for number in (4, 5):
            path = record_path(number)
            text = local.read(path).decode()
            local.write(path, text.replace('"first_row":0', f'"first_row":{first_row}').encode())
        local.delete(manifest_path(5))
        assert kind in {found.kind for found in verify(local).findings}

    def test_rows_of_a_unit_that_is_not_committed(self, local: Store) -> None:
        sound(local)
        compact(local)
        local.delete(manifest_path(5))
        path = record_path(5)
        local.write(path, local.read(path).replace(b'"unit":"u-1"', b'"unit":"u-9"'))
        with pytest.raises(StoreError, match="moves rows of u-9, which is not committed"):
            read_manifest(local)


class TestFormat:
    def test_what_is_read_from_the_manifest_is_what_the_log_says(self, local: Store) -> None:
        records = sound(local)
        compact(local)
        redo(local, "u-0")
        compact(local)
        open_log(local).append([commit(local, deliver("late"))])
        write_manifest(local)
        assert list(read_manifest(local).units()) == list(replay_log(local).units())
        again = json.loads(to_json(read_record(local, 4)))["moved"][0]
        assert again["unit"] == "u-0"
        assert again["parts"][0]["place"] == {"first_row": 0, "of_rows": 12}
        assert len(records) == 3


acts = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 9), st.integers(0, 9)),
        st.tuples(st.just("compact"), st.sampled_from([1, 20_000, 1 << 20]), st.integers(0, 4)),
        st.tuples(st.just("redo"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("vacuum"), st.just(0), st.just(0)),
        st.tuples(st.just("manifest"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@given(acts)
@settings(max_examples=25)
def test_whatever_comes_after_whatever(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, int]]
) -> None:
    store = Store(str(tmp_path_factory.mktemp("corpus")))
    log = write_log(store, [])
    rows: dict[str, list[str]] = {}
    for n, (act, one, two) in enumerate(acts):
        if act == "commit":
            delivery = deliver(f"u-{n}", batches=(one, two) if two else (one,))
            assert log.append([commit(store, delivery, max_part_bytes=5000)]).ours
            rows[f"u-{n}"] = [f"u-{n}/k{i // 2}/{i % 2}" for i in range(one + two)]
        elif act == "compact":
            assert compact(store, part_bytes=one, small_share=two / 4).changed_meanwhile == 0
        elif act == "redo" and rows:
            unit = sorted(rows)[one % len(rows)]
            redo(store, unit, batches=(one + 1, two + 1))
            rows[unit] = [f"{unit}/k{i // 2}/{i % 2}" for i in range(one + two + 2)]
        elif act == "vacuum":
            vacuum(store, older_than_hours=0, delete=True)
        elif act == "manifest":
            write_manifest(store)
    assert ids(store) == sorted(clip for clips in rows.values() for clip in clips)
    assert verify(store).findings == []
    compact(store)
    vacuum(store, older_than_hours=0, delete=True)
    assert globbed(store) == ids(store)
    assert verify(store).findings == []


def test_no_dataset(local: Store) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        compact(local)


def test_command(local: Store) -> None:
    sound(local)
    run = CliRunner().invoke
    done = run(app, ["compact", local.uri, "--part-mb", "64", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["files_before"], found["files_after"], found["rows"]) == (6, 2, 21)
    done = run(app, ["compact", local.uri])
    assert (done.exit_code, done.stdout) == (0, f"nothing to merge in {local.uri}\n")
    assert SCHEMA.equals(pq.read_schema(local.locate(min(named(local)))))
