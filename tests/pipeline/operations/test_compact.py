"""Small parts become large ones, and every row stays what and where it was in its unit."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.log.log_records import read_record
from pipeline.dataset.log.manifest import read_manifest, replay_log, write_manifest
from pipeline.dataset.records import Reopened
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.errors import ConfigError
from pipeline.job.remaining import subtract
from pipeline.operations.compact import compact
from pipeline.operations.diff import diff
from pipeline.operations.report.page import report
from pipeline.operations.status import status
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.records import to_json
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, sound, write_log
from tests.pipeline.operations.compacted import content, globbed, ids, named, open_log, redo
from tests.pipeline.sources.reading import units_of
from tests.pipeline.units import SCHEMA, deliver

WIDE, SMALL = "9x16x32", "5x16x16"


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


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
    assert (checked.rows_checked, checked.files, checked.files_read) == (42, 8, 8)
    assert sorted(checked.orphaned) == sorted(old)

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
    assert (found.exit_code, found.clips.both) == (0, 28)
    compact(a)
    assert diff(a, b).exit_code == 0
    redo(b, "u-1", lost=[5])
    assert diff(a, b).clips.only_a.examples == ["u-1/k2/1"]


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
    assert groups == 1, "cut again"


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
    # The old rows of the unit are in the merged part until it is written again.
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
    units = units_of([str(tmp_path / "in")])
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


def test_what_is_read_from_the_manifest_is_what_the_log_says(local: Store) -> None:
    records = sound(local)
    compact(local)
    redo(local, "u-0")
    compact(local)
    open_log(local).append([commit(local, deliver("late"))])
    write_manifest(local)
    assert list(read_manifest(local).units()) == list(replay_log(local).units())
    again = json.loads(to_json(read_record(local, 4)))["moved"][0]
    assert again["unit"] == "u-0"
    assert again["parts"][0]["place"] == {"first_row": 0, "of_rows": 12, "left_out": []}
    assert len(records) == 3


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
