import dataclasses
import json
import multiprocessing
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.dataset.format_version import FORMAT_VERSION
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.log_records import LogRecord, read_record, read_records, record_path
from pipeline.dataset.log.manifest import read_manifest, write_manifest
from pipeline.dataset.records import Reopened, UnitRecord
from pipeline.errors import ConfigError, DatasetMismatch, StateUnknown, StoreError
from pipeline.records import to_json
from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server
from tests.pipeline.units import make_record

UNITS = [make_record(f"u-{n}") for n in range(40)]
NAMES = [unit.unit for unit in UNITS]


def open_log(store: Store, fingerprint: str = "fp") -> CommitLog:
    return CommitLog(store, fingerprint=fingerprint, run="a test")


def in_log(store: Store) -> list[str]:
    return [unit.unit for record in read_records(store, after=0) for unit in record.units]


class TestAppend:
    def test_what_was_appended_is_read(self, store: Store) -> None:
        log = open_log(store)
        assert log.number == 0
        assert log.append(UNITS[:2]).ours == ("u-0", "u-1")
        assert log.append(UNITS[2:3]).ours == ("u-2",)
        assert store.list() == [record_path(1), record_path(2)]
        records = list(read_records(store, after=0))
        assert [record.number for record in records] == [1, 2]
        assert records[0].units == tuple(UNITS[:2])
        assert (records[0].run, records[0].fingerprint) == ("a test", "fp")
        again = open_log(store)
        assert again.number == 2
        assert again.committed.units == {"u-0", "u-1", "u-2"}
        assert again.committed.sources == {f"/in/u-{n}.tar" for n in range(3)}

    def test_a_checkpoint_tells_the_same_as_the_records(self, local: Store) -> None:
        log = open_log(local)
        rows = {f"l-{n}": (f"/in/l.csv#rows={n}-{n + 9}",) for n in range(0, 36, 9)}
        log.append([*UNITS[:2], *(make_record(unit, sources=row) for unit, row in rows.items())])
        log.reopen([Reopened(unit="l-9", sources=rows["l-9"])])
        write_manifest(local)
        again = open_log(local)
        assert again.committed == log.committed
        assert list(again.committed.rows.gaps("/in/l.csv", 0, 40)) == [(9, 18), (36, 40)]

    def test_path_sorts_and_never_changes(self) -> None:
        assert record_path(12) == "log/00000000000000000012.json"

    def test_appending_nothing_writes_nothing(self, local: Store) -> None:
        log = open_log(local)
        outcome = log.append([])
        assert (outcome.ours, outcome.lost, outcome.overlapping) == ((), (), ())
        assert local.list() == []

    def test_the_other_driver_drops_what_is_committed(self, local: Store) -> None:
        first, second = open_log(local), open_log(local)
        first.append(UNITS[:3])
        outcome = second.append(UNITS[2:5])
        assert (outcome.ours, outcome.lost) == (("u-3", "u-4"), ("u-2",))
        assert second.number == 2
        assert in_log(local) == NAMES[:5]
        first.refresh()
        assert first.committed == second.committed

    def test_a_unit_given_twice_is_committed_once(self, local: Store) -> None:
        log = open_log(local)
        assert log.append([UNITS[0], UNITS[0]]).ours == ("u-0",)
        assert log.append([UNITS[0]]).ours == ("u-0",)
        assert in_log(local) == ["u-0"]

    def test_no_file_is_committed_by_two_units(self, local: Store) -> None:
        """Two drivers listed a folder while files arrived, and cut its runs differently."""
        first, second = open_log(local), open_log(local)
        first.append([make_record("run-a", sources=("/in/1.mp4", "/in/2.mp4"))])
        outcome = second.append(
            [
                make_record("run-b", sources=("/in/2.mp4", "/in/3.mp4")),
                make_record("run-c", sources=("/in/4.mp4",)),
                make_record("run-d", sources=("/in/4.mp4", "/in/5.mp4")),
            ]
        )
        assert (outcome.ours, outcome.lost) == (("run-c",), ())
        assert outcome.overlapping == ("run-b", "run-d")
        assert in_log(local) == ["run-a", "run-c"]

    def test_another_fingerprint_is_refused(self, local: Store) -> None:
        open_log(local).append(UNITS[:1])
        with pytest.raises(
            DatasetMismatch, match=r"record 1 has fingerprint fp, this run has other"
        ):
            open_log(local, "other")
        write_manifest(local)
        with pytest.raises(DatasetMismatch, match=r"newest manifest has fingerprint fp"):
            open_log(local, "other")

    def test_a_hole_is_never_filled(self, local: Store) -> None:
        log = open_log(local)
        for unit in UNITS[:3]:
            log.append([unit])
        local.delete(record_path(2))
        with pytest.raises(StoreError, match=r"002\.json: missing, although record 3"):
            open_log(local)

    def test_a_damaged_record_is_named(self, local: Store) -> None:
        local.write(record_path(1), b'{"number": 1}')
        with pytest.raises(StoreError, match=r"001\.json: not a log record"):
            open_log(local)

    @pytest.mark.parametrize("version", [0, 2, 3])
    def test_another_format_is_refused(self, local: Store, version: int) -> None:
        open_log(local).append(UNITS[:1])
        record = dataclasses.replace(read_record(local, 1), format_version=version)
        local.write(record_path(1), to_json(record))
        with pytest.raises(ConfigError, match=rf"001\.json: format version {version}: .* only;"):
            open_log(local)

    def test_a_record_without_statistics_is_refused(self, local: Store) -> None:
        """A release before this format wrote such records."""
        open_log(local).append(UNITS[:1])
        record = json.loads(local.read(record_path(1)))
        del record["units"][0]["statistics"]
        local.write(record_path(1), json.dumps(record).encode())
        text = r"001\.json: not a log record: units\.0\.statistics: Field required"
        with pytest.raises(StoreError, match=text):
            open_log(local)

    def test_a_record_is_plain_json(self, local: Store) -> None:
        open_log(local).append(UNITS[:1])
        record = json.loads(local.read(record_path(1)))
        assert record["format_version"] == FORMAT_VERSION
        assert record["units"][0]["counts"]["samples_read"] == UNITS[0].counts.samples_read

    def test_many_records_come_in_order(self, local: Store) -> None:
        for number in range(1, 71):
            record = LogRecord(
                number=number,
                token="t",
                run="",
                fingerprint="fp",
                units=(make_record(f"v-{number}"),),
            )
            local.write(record_path(number), to_json(record))
        assert in_log(local) == [f"v-{number}" for number in range(1, 71)]
        assert [record.number for record in read_records(local, after=60)] == [*range(61, 71)]


def reopened(*names: str) -> list[Reopened]:
    return [Reopened(unit=name, sources=(f"/in/{name}.tar",)) for name in names]


class TestReopen:
    def test_a_unit_can_be_committed_again(self, local: Store) -> None:
        log = open_log(local)
        log.append(UNITS[:2])
        assert log.reopen(reopened("u-1", "never")) == ("u-1",)
        assert log.committed.units == {"u-0"}
        assert log.committed.reopened == {"u-1": ("/in/u-1.tar",)}
        assert open_log(local).committed == log.committed
        again = make_record("u-1", seed=1)
        assert log.append([UNITS[0], again]).ours == ("u-0", "u-1")
        assert in_log(local) == ["u-0", "u-1"], "the work on it was planned before"
        log.plan()
        assert log.append([UNITS[0], again]).ours == ("u-0", "u-1")
        assert log.committed.units == {"u-0", "u-1"}
        assert log.append([again]).ours == ("u-1",)
        assert in_log(local) == ["u-0", "u-1", "u-1"], "once for each time that it was reopened"

    def test_reopening_twice_writes_once(self, local: Store) -> None:
        log, other = open_log(local), open_log(local)
        log.append(UNITS[:2])
        other.refresh()
        assert log.reopen(reopened("u-0")) == ("u-0",)
        assert other.reopen(reopened("u-0", "u-1")) == ("u-1",)
        assert other.reopen(reopened("u-0", "u-1")) == ()
        assert other.number == 3

    def test_of_two_drivers_one_does_it_again(self, local: Store) -> None:
        open_log(local).append(UNITS[:1])
        open_log(local).reopen(reopened("u-0"))
        first, second = open_log(local), open_log(local)
        assert first.append([make_record("u-0", seed=1)]).ours == ("u-0",)
        outcome = second.append([make_record("u-0", seed=2)])
        assert (outcome.ours, outcome.lost) == ((), ("u-0",))
        assert list(read_manifest(local).units()) == [make_record("u-0", seed=1)]

    def test_no_other_unit_takes_its_files(self, local: Store) -> None:
        log = open_log(local)
        log.append([make_record("run-a", sources=("/in/1.mp4", "/in/2.mp4"))])
        log.reopen([Reopened(unit="run-a", sources=("/in/1.mp4", "/in/2.mp4"))])
        other = make_record("run-b", sources=("/in/2.mp4", "/in/3.mp4"))
        assert open_log(local).append([other]).overlapping == ("run-b",)
        assert in_log(local) == ["run-a"]

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), max_size=12)
    )
    @settings(max_examples=25)
    def test_exactly_one_version_counts(self, acts: list[tuple[int, int, int]]) -> None:
        """Drivers commit, reopen, write checkpoints and restart in any order."""
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            logs = [open_log(store), open_log(store), open_log(store)]
            current: dict[str, UnitRecord] = {}
            waiting: set[str] = set()
            for version, (act, which, n) in enumerate(acts):
                name = f"u-{n}"
                logs[which].refresh()
                logs[which].plan()
                if act == 0:
                    logs[which].append([made := make_record(name, seed=version)])
                    if name not in current or name in waiting:
                        current.pop(name, None)
                        current[name] = made
                        waiting.discard(name)
                elif act == 1:
                    logs[which].reopen(reopened(name))
                    waiting.update({name} & current.keys())
                elif act == 2:
                    write_manifest(store)
                else:
                    logs[which] = open_log(store)
                manifest = read_manifest(store)
                assert list(manifest.units()) == list(current.values())
                assert manifest.reopened == waiting
                committed = open_log(store).committed
                assert committed.reopened.keys() == waiting
                assert committed.units == current.keys() - waiting


class TestTwoDrivers:
    def test_threads_lose_nothing_and_double_nothing(self, store: Store) -> None:
        barrier = threading.Barrier(4)

        def drive(start: int) -> list[tuple[str, ...]]:
            log = open_log(store)
            barrier.wait()
            order = UNITS[start:] + UNITS[:start]
            outcomes = [log.append(order[n : n + 4]) for n in range(0, len(order), 4)]
            assert all(not outcome.overlapping for outcome in outcomes)
            return [outcome.ours for outcome in outcomes]

        with ThreadPoolExecutor(4) as pool:
            ours = [
                name for groups in pool.map(drive, (0, 3, 10, 20)) for g in groups for name in g
            ]
        assert sorted(ours) == sorted(NAMES)
        assert sorted(in_log(store)) == sorted(NAMES)

    def test_processes_lose_nothing_and_double_nothing(self, local: Store) -> None:
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            first, second = pool.starmap(_drive, [(local, 0), (local, 20)])
        assert sorted(first + second) == sorted(NAMES)
        assert sorted(in_log(local)) == sorted(NAMES)


def _drive(store: Store, start: int) -> list[str]:
    log = open_log(store)
    order = UNITS[start:] + UNITS[:start]
    return [name for unit in order for name in log.append([unit]).ours]


@pytest.mark.s3
class TestLostReplies:
    """The store applies a write and the answer does not arrive."""

    @pytest.mark.parametrize("kind", ["lose_reply", "drop_reply", "refuse_503", "conflict_409"])
    def test_a_unit_is_ours_whatever_the_answer_was(
        self, s3: S3Server, s3_store: Store, kind: str
    ) -> None:
        log = open_log(s3_store)
        with s3.faults.times(kind, 1, part="/log/"):
            assert log.append(UNITS[:2]).ours == ("u-0", "u-1")
        assert s3.faults.injected[-1][0] == kind
        assert log.append(UNITS[2:3]).ours == ("u-2",)
        assert in_log(s3_store) == NAMES[:3]

    @pytest.mark.parametrize("kind", ["lose_reply", "drop_reply", "refuse_503"])
    def test_losing_the_race_behind_a_lost_reply(
        self, s3: S3Server, s3_store: Store, kind: str
    ) -> None:
        """Our answer got lost and it was a refusal: nothing of ours may count as committed."""
        log, rival = open_log(s3_store), open_log(s3_store)
        rival.append(UNITS[:2])
        with s3.faults.times(kind, 1, part="/log/"):
            outcome = log.append(UNITS[1:3])
        assert (outcome.ours, outcome.lost) == (("u-2",), ("u-1",))
        assert in_log(s3_store) == NAMES[:3]

    def test_appending_again_after_no_answer_at_all(self, s3: S3Server, s3_store: Store) -> None:
        log = open_log(s3_store)
        with (
            s3.faults.times("lose_reply", 1, part="/log/"),
            s3.faults.times("refuse_503", 999, part="/log/"),
            s3.faults.times("refuse_503", 999, method="GET", part="/log/"),
            pytest.raises(StateUnknown),
        ):
            log.append(UNITS[:2])
        assert in_log(s3_store) == NAMES[:2], "the first try was applied"
        assert log.append(UNITS[:3]).ours == ("u-0", "u-1", "u-2")
        assert in_log(s3_store) == NAMES[:3]

    def test_two_drivers_behind_a_bad_network(self, s3: S3Server, s3_store: Store) -> None:
        seen = [0]

        def every_third(environ: dict[str, object]) -> str | None:
            if environ["REQUEST_METHOD"] != "PUT":
                return None
            seen[0] += 1
            return (None, "lose_reply", None, "refuse_503", None, "drop_reply")[seen[0] % 6]

        def drive(start: int) -> list[str]:
            log = open_log(s3_store)
            order = UNITS[start:] + UNITS[:start]
            groups = [log.append(order[n : n + 5]).ours for n in range(0, 40, 5)]
            return [name for group in groups for name in group]

        with s3.faults.rule(every_third), ThreadPoolExecutor(2) as pool:
            first, second = pool.map(drive, (0, 15))
        assert sorted(first + second) == sorted(NAMES)
        assert sorted(in_log(s3_store)) == sorted(NAMES)


class LogMachine(RuleBasedStateMachine):
    """Drivers come, go, append overlapping groups and write checkpoints, in any order."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(self.folder.name)
        self.logs = [open_log(self.store), open_log(self.store)]
        self.owner: dict[str, int] = {}
        self.files: dict[str, str] = {}

    @rule(which=st.integers(0, 1), runs=st.lists(st.integers(0, 11), max_size=4))
    def append(self, which: int, runs: list[int]) -> None:
        """Run n covers files n and n + 1, so neighbours exclude each other."""
        units = [make_record(f"r-{n}", sources=(f"/f{n}", f"/f{n + 1}")) for n in runs]
        outcome = self.logs[which].append(units)
        for unit in units:
            free = all(self.files.get(f, unit.unit) == unit.unit for f in unit.sources)
            if free:
                self.owner.setdefault(unit.unit, which)
                self.files.update(dict.fromkeys(unit.sources, unit.unit))
                group = outcome.ours if self.owner[unit.unit] == which else outcome.lost
            else:
                group = outcome.overlapping
            assert unit.unit in group

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """A new driver owns nothing that the old one committed."""
        self.logs[which] = open_log(self.store)
        self.owner = {unit: -1 if by == which else by for unit, by in self.owner.items()}

    @rule()
    def checkpoint(self) -> None:
        write_manifest(self.store)

    @invariant()
    def readers_see_what_was_committed(self) -> None:
        manifest = read_manifest(self.store)
        assert sorted(manifest.table["unit"].to_pylist()) == sorted(self.owner)
        assert sorted(in_log(self.store)) == sorted(self.owner)

    def teardown(self) -> None:
        self.folder.cleanup()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
