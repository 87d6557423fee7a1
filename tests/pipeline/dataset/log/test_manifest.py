import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.log_records import LogRecord, record_path
from pipeline.dataset.log.manifest import (
    Manifest,
    manifest_path,
    read_checkpoint,
    read_manifest,
    replay_log,
    write_manifest,
)
from pipeline.dataset.records import Counts, Reopened, UnitRecord
from pipeline.errors import ConfigError, StoreError
from pipeline.records import to_json
from pipeline.storage.store import Store
from tests.pipeline.units import SMALL, WIDE, make_record, parquet_bytes

UNITS = [make_record(f"u-{n}") for n in range(30)]


def log_record(number: int, *units: UnitRecord, fingerprint: str = "fp") -> LogRecord:
    return LogRecord(number=number, token="t", run="r", fingerprint=fingerprint, units=units)


def commit(store: Store, *groups: list[UnitRecord]) -> None:
    log = CommitLog(store, fingerprint="fp")
    for group in groups:
        log.append(group)


class TestReading:
    def test_nothing_is_committed(self, local: Store) -> None:
        manifest = read_manifest(local)
        assert (manifest.number, len(manifest), manifest.fingerprint) == (0, 0, None)
        assert manifest.parts() == manifest.parts(SMALL.name) == manifest.quarantine_parts() == []
        assert manifest.counts() == Counts()
        assert write_manifest(local).number == 0
        assert local.list() == []

    def test_checkpoint_and_later_records(self, store: Store) -> None:
        commit(store, UNITS[:5], UNITS[5:8])
        assert write_manifest(store).number == 2
        commit(store, UNITS[8:10])
        assert store.list("manifest") == [manifest_path(2)]
        assert len(read_checkpoint(store)) == 8
        manifest = read_manifest(store)
        assert (manifest.number, manifest.fingerprint) == (3, "fp")
        assert list(manifest.units()) == UNITS[:10]
        assert manifest.table["log_number"].to_pylist() == [1] * 5 + [2] * 3 + [3] * 2

    def test_the_log_is_not_read_below_the_checkpoint(self, local: Store) -> None:
        commit(local, UNITS[:2], UNITS[2:4])
        write_manifest(local)
        commit(local, UNITS[4:5])
        local.write(record_path(1), b"damaged")
        assert list(read_manifest(local).units()) == UNITS[:5]
        assert CommitLog(local, fingerprint="fp").committed.units == {f"u-{n}" for n in range(5)}

    def test_the_newest_checkpoint_counts(self, local: Store) -> None:
        commit(local, UNITS[:2])
        write_manifest(local)
        commit(local, UNITS[2:4])
        write_manifest(local)
        assert local.list("manifest") == [manifest_path(1), manifest_path(2)]
        assert read_checkpoint(local).number == 2

    @pytest.mark.parametrize("checkpoints", [(), (1,), (2, 4), (5,)])
    def test_an_older_version(self, local: Store, checkpoints: tuple[int, ...]) -> None:
        for number in range(1, 6):
            commit(local, UNITS[2 * number : 2 * number + 2])
            if number in checkpoints:
                write_manifest(local)
        for number in range(6):
            manifest = read_manifest(local, number)
            assert manifest.number == number
            assert list(manifest.units()) == UNITS[2 : 2 * number + 2]
            assert manifest.table == replay_log(local, number).table
        for number in (6, -1):
            with pytest.raises(ConfigError, match=rf"version = {number}: .* records up to 5; name"):
                read_manifest(local, number)

    def test_an_older_version_does_not_read_what_came_later(self, local: Store) -> None:
        commit(local, UNITS[:2], UNITS[2:4], UNITS[4:6])
        local.write(record_path(3), b"{")
        assert list(read_manifest(local, 2).units()) == UNITS[:4]

    def test_parts_by_bucket(self, local: Store) -> None:
        commit(local, UNITS)
        manifest = read_manifest(local)
        parts = [part for unit in UNITS for part in unit.parts]
        assert manifest.parts() == parts
        for bucket in (SMALL.name, WIDE.name):
            assert manifest.parts(bucket) == [part for part in parts if part.bucket == bucket]
        assert manifest.parts("no such bucket") == []
        assert manifest.quarantine_parts() == [u.quarantine for u in UNITS if u.quarantine]

    def test_sums(self, local: Store) -> None:
        commit(local, UNITS)
        manifest = read_manifest(local)
        assert manifest.counts() == sum((unit.counts for unit in UNITS), Counts())


class TestDoneAgain:
    """A unit that was reopened and committed again: every reader sees the later version alone."""

    NEWER = make_record("u-1", seed=9)

    def reopened(self, store: Store, *names: str) -> None:
        log = CommitLog(store, fingerprint="fp")
        log.reopen([Reopened(unit=name, sources=(f"/in/{name}.tar",)) for name in names])

    def test_until_it_is_done_it_counts_as_it_is(self, local: Store) -> None:
        commit(local, UNITS[:3])
        self.reopened(local, "u-1")
        manifest = read_manifest(local)
        assert (list(manifest.units()), manifest.reopened) == (UNITS[:3], {"u-1"})

    @pytest.mark.parametrize("checkpoints", [(), (1,), (2,), (3,), (1, 2, 3)])
    def test_the_later_version_replaces(self, local: Store, checkpoints: tuple[int, ...]) -> None:
        commit(local, UNITS[:3])
        for number in (1, 2, 3):
            if number in checkpoints:
                assert write_manifest(local).number == number
            if number == 1:
                self.reopened(local, "u-1")
            elif number == 2:
                commit(local, [self.NEWER])
        manifest = read_manifest(local)
        assert list(manifest.units()) == [UNITS[0], UNITS[2], self.NEWER]
        assert manifest.reopened == set()
        assert manifest.table == replay_log(local).table
        assert len(replay_log(local, 2)) == 3
        assert manifest.parts() == [
            part for unit in (UNITS[0], UNITS[2], self.NEWER) for part in unit.parts
        ]

    def test_twice(self, local: Store) -> None:
        commit(local, UNITS[:2])
        newest = make_record("u-1", seed=10)
        for version in (self.NEWER, newest):
            self.reopened(local, "u-1")
            commit(local, [version])
        assert list(read_manifest(local).units()) == [UNITS[0], newest]

    def test_a_second_commit_without_reopening_is_damage(self, local: Store) -> None:
        commit(local, UNITS[:2])
        self.reopened(local, "u-1")
        commit(local, [self.NEWER])
        local.write(record_path(4), to_json(log_record(4, make_record("u-1", seed=11))))
        with pytest.raises(StoreError, match="record 4: u-1 is committed twice; restore it"):
            read_manifest(local)


class TestWriting:
    def test_writing_again_writes_nothing(self, local: Store) -> None:
        commit(local, UNITS)
        first = write_manifest(local)
        before = Path(local.locate(manifest_path(1))).stat().st_mtime_ns
        assert write_manifest(local).table == first.table
        assert Path(local.locate(manifest_path(1))).stat().st_mtime_ns == before

    def test_two_writers_write_the_same_bytes(self, local: Store, tmp_path: Path) -> None:
        """Whoever comes last overwrites the table with itself, also from another checkpoint."""
        commit(local, UNITS[:10], UNITS[10:])
        write_manifest(local)
        other = Store(str(tmp_path / "other"))
        commit(other, UNITS[:10])
        write_manifest(other)
        for number in (1, 2):
            other.write(record_path(number), local.read(record_path(number)))
        write_manifest(other)
        assert other.read(manifest_path(2)) == local.read(manifest_path(2))

    def test_opens_without_us(self, local: Store) -> None:
        commit(local, UNITS)
        write_manifest(local)
        import duckdb

        with duckdb.connect() as connection:
            files = f"{local.uri}/manifest/*.parquet"
            [row] = connection.execute(
                f"SELECT count(*), sum(clips_written), sum(len(parts)) FROM '{files}'"
            ).fetchall()
            buckets = connection.execute(
                f"SELECT DISTINCT p.bucket FROM (SELECT unnest(parts) AS p FROM '{files}')"
                " ORDER BY 1"
            ).fetchall()
        parts = [part for unit in UNITS for part in unit.parts]
        assert row == (30, sum(unit.counts.clips_written for unit in UNITS), len(parts))
        assert buckets == [(SMALL.name,), (WIDE.name,)]

    def test_a_damaged_checkpoint_is_ignored(self, local: Store, caplog: Any) -> None:
        """The next one before it counts, and the next run writes it again."""
        commit(local, UNITS[:1])
        write_manifest(local)
        commit(local, UNITS[1:2])
        sound = write_manifest(local)
        data = bytearray(local.read(manifest_path(2)))
        for damaged in (b"PAR1 but not really", b"", data[:-1], b"x" + data[4:] + b"x"):
            local.write(manifest_path(2), bytes(damaged))
            assert read_checkpoint(local).number == 1
            assert list(read_manifest(local).units()) == UNITS[:2]
            assert set(CommitLog(local, fingerprint="fp").committed.units) == {"u-0", "u-1"}
        [warning] = {record.message for record in caplog.records if "not a Parq" in record.message}
        assert local.locate(manifest_path(2)) in warning
        assert "the log holds all that it says" in warning
        assert write_manifest(local).table == sound.table
        assert local.read(manifest_path(2)) == data

    @pytest.mark.parametrize("change", [{"number": 2}, {"reopened": None}, {"fingerprint": {}}])
    def test_a_checkpoint_with_another_head(self, local: Store, change: dict[str, Any]) -> None:
        commit(local, UNITS[:1])
        head = {"format_version": 1, "number": 1, "fingerprint": "fp", "reopened": []} | change
        table = write_manifest(local).table.replace_schema_metadata({"vidtok": json.dumps(head)})
        local.write(manifest_path(1), parquet_bytes(table))
        assert read_checkpoint(local).number == 0
        assert list(read_manifest(local).units()) == UNITS[:1]

    @pytest.mark.parametrize("value", [-1, 1 << 41, None])
    def test_a_checkpoint_with_counts_out_of_bounds(self, local: Store, value: int | None) -> None:
        commit(local, UNITS[:1])
        table = write_manifest(local).table
        head = {"format_version": 1, "number": 1, "fingerprint": "fp", "reopened": []}
        place = table.schema.get_field_index("clips_written")
        table = table.set_column(place, "clips_written", pa.array([value], pa.int64()))
        table = table.replace_schema_metadata({"vidtok": json.dumps(head)})
        local.write(manifest_path(1), parquet_bytes(table))
        assert read_checkpoint(local).number == 0

    def rewrite(self, store: Store, version: int, dropped: Sequence[str] = ()) -> None:
        """Write the checkpoint of record 1 as an earlier release did."""
        table = write_manifest(store).table.drop_columns(list(dropped))
        head = {"format_version": version, "number": 1, "fingerprint": "fp", "reopened": []}
        table = table.replace_schema_metadata({"vidtok": json.dumps(head)})
        store.write(manifest_path(1), parquet_bytes(table))

    def test_a_checkpoint_without_a_column_is_ignored(self, local: Store) -> None:
        commit(local, UNITS[:1])
        self.rewrite(local, version=1, dropped=["statistics"])
        assert read_checkpoint(local).number == 0
        assert list(read_manifest(local).units()) == UNITS[:1]

    @pytest.mark.parametrize("version", [0, 3, 4])
    def test_another_format_is_refused(self, local: Store, version: int) -> None:
        """Earlier releases wrote checkpoints of version 1, 3 or 4, with other columns."""
        commit(local, UNITS[:1])
        self.rewrite(local, version)
        with pytest.raises(ConfigError, match=rf"001\.parquet: format version {version}: .* only;"):
            read_manifest(local)
        with pytest.raises(ConfigError, match="format version"):
            CommitLog(local, fingerprint="fp")


class TestExtending:
    EMPTY = Manifest(0, read_checkpoint(Store("/nonexistent")).table)

    def test_records_have_to_follow_on(self) -> None:
        with pytest.raises(StoreError, match="log record 2 follows record 0"):
            self.EMPTY.extended([log_record(2, UNITS[0])])

    def test_a_unit_committed_twice_is_never_passed_on(self) -> None:
        with pytest.raises(StoreError, match="committed twice"):
            self.EMPTY.extended([log_record(1, UNITS[0]), log_record(2, UNITS[0])])

    def test_fingerprints_do_not_mix(self) -> None:
        records = [log_record(1, UNITS[0]), log_record(2, UNITS[1], fingerprint="other")]
        with pytest.raises(ConfigError, match="record 2: fingerprint other"):
            self.EMPTY.extended(records)

    @given(st.lists(st.lists(st.integers(0, 10**6), max_size=4), max_size=6), st.integers(0, 6))
    def test_any_cut_gives_the_same_manifest(self, groups: list[list[int]], cut: int) -> None:
        seen: set[int] = set()
        records = []
        for number, group in enumerate(groups, 1):
            fresh = [n for n in dict.fromkeys(group) if n not in seen]
            seen.update(fresh)
            records.append(log_record(number, *(make_record(f"u-{n}") for n in fresh)))
        whole = self.EMPTY.extended(records)
        halves = self.EMPTY.extended(records[:cut]).extended(records[cut:])
        assert halves.table == whole.table
        assert [*whole.units()] == [unit for record in records for unit in record.units]


def test_many_units(local: Store) -> None:
    """More than a row group of a manifest holds, and a long log without a checkpoint."""
    groups, size = 21, 1000
    template = make_record("template", seed=3)
    Path(local.locate("log")).mkdir(parents=True)
    for number in range(1, groups + 1):
        units = tuple(
            dataclasses.replace(
                template,
                unit=(unit := f"shard-{number:04}-{n:04}"),
                sources=(f"s3://b/{unit}.tar",),
            )
            for n in range(size)
        )
        Path(local.locate(record_path(number))).write_bytes(to_json(log_record(number, *units)))
    manifest = write_manifest(local)
    assert read_checkpoint(local).table == manifest.table
    log = CommitLog(local, fingerprint="fp")
    assert len(manifest) == len(log.committed.units) == groups * size
    assert manifest.counts().clips_written == groups * size * template.counts.clips_written
