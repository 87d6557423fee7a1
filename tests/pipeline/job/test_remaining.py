import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.log.committed import Committed
from pipeline.dataset.records import Counts, Reopened, UnitRecord
from pipeline.job.remaining import subtract, take_slice
from pipeline.records import ListRows, LooseFile, WorkUnit, parse_range, unit_sources
from pipeline.sources.planning import cut_runs, rows_unit
from tests.pipeline.sources.reading import units_of
from tests.pipeline.sources.test_planning import touch


def committed(units: Sequence[WorkUnit]) -> Committed:
    known = Committed()
    for unit in units:
        known.add(unit.unit, unit_sources(unit))
    return known


def record(unit: WorkUnit) -> UnitRecord:
    return UnitRecord(
        unit=unit.unit,
        sources=unit_sources(unit),
        parts=(),
        quarantine=None,
        counts=Counts(),
        reasons={},
        statistics={},
    )


def covered(units: Sequence[WorkUnit]) -> list[str]:
    return sorted(uri for unit in units for uri in unit_sources(unit))


def files_source(prefix: str, numbers: Sequence[int], per_unit: int) -> list[WorkUnit]:
    """Plan a folder that holds these files, without a file system."""
    files = [LooseFile(key=f"{n:03}.mp4", uri=f"{prefix}/{n:03}.mp4") for n in sorted(numbers)]
    return list(cut_runs(files, per_unit))


class TestSubtract:
    def test_committed_units_are_done(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.tar", "b.tar", *[f"{n}.mp4" for n in range(4)])
        units = units_of([str(tmp_path)], files_per_unit=2)
        assert len(units) == 4
        assert subtract(units, committed(units)) == []
        assert subtract(units, Committed()) == units
        assert subtract(units, committed([units[0], units[2]])) == [units[1], units[3]]

    def test_new_files_in_front_shift_all_runs_and_nothing_is_done_twice(self) -> None:
        old = files_source("/in", range(10, 42), 16)
        new = files_source("/in", range(9, 42), 16)
        left = subtract(new, committed(old), files_per_unit=16)
        assert covered(left) == ["/in/009.mp4"]

    def test_scattered_new_files_share_units(self) -> None:
        old = files_source("/in", range(0, 640, 2), 16)
        arrived = range(1, 640, 20)
        new = files_source("/in", [*range(0, 640, 2), *arrived], 16)
        left = subtract(new, committed(old), files_per_unit=16)
        assert covered(left) == [f"/in/{n:03}.mp4" for n in arrived]
        assert [len(unit.files) for unit in left] == [16, 16]

    def test_sources_are_not_mixed(self) -> None:
        """Two folders can hold the same key; one unit cannot."""
        old = files_source("/a", [1], 16) + files_source("/b", [1], 16)
        new = files_source("/a", [1, 2], 16) + files_source("/b", [1, 2], 16)
        left = subtract(new, committed(old))
        assert covered(left) == ["/a/002.mp4", "/b/002.mp4"]
        assert len(left) == 2

    @pytest.mark.parametrize("tars", [True, False])
    def test_what_was_reopened_is_the_same_unit_again(self, tars: bool) -> None:
        if tars:
            units = [WorkUnit(unit=f"u-{n}", tar_uri=f"/{n}.tar") for n in range(4)]
        else:
            units = files_source("/in", range(64), 16)
        known = committed(units)
        known.reopen(Reopened(unit=units[2].unit, sources=unit_sources(units[2])))
        assert subtract(units, known) == [units[2]]
        known.add(units[2].unit, unit_sources(units[2]))
        assert subtract(units, known) == []

    def test_a_reopened_run_keeps_its_files_however_they_are_cut(self) -> None:
        old = files_source("/in", range(10, 42), 16)
        known = committed(old)
        known.reopen(Reopened(unit=old[1].unit, sources=unit_sources(old[1])))
        new = files_source("/in", range(5, 50), 7)
        left = subtract(new, known, files_per_unit=7)
        assert left[-1] == old[1]
        arrived = [*range(5, 10), *range(42, 50)]
        assert covered(left[:-1]) == [f"/in/{n:03}.mp4" for n in arrived]

    def test_a_reopened_run_waits_while_the_plan_lacks_a_file(self) -> None:
        old = files_source("/in", range(4), 4)
        known = committed(old)
        known.reopen(Reopened(unit=old[0].unit, sources=unit_sources(old[0])))
        assert subtract(files_source("/in", range(1, 4), 4), known, files_per_unit=4) == []
        assert subtract(files_source("/in", range(4), 2), known, files_per_unit=2) == old

    @given(
        arrivals=st.lists(
            st.tuples(st.sets(st.integers(0, 99), max_size=30), st.integers(0, 1 << 30)), max_size=8
        ),
        per_unit=st.integers(1, 9),
    )
    def test_files_that_trickle_in_are_each_covered_once(
        self, arrivals: list[tuple[set[int], int]], per_unit: int
    ) -> None:
        """However files arrive and jobs break off, each file is committed in exactly one unit."""
        here: set[int] = set()
        done: list[WorkUnit] = []
        for arrived, seed in arrivals:
            here |= arrived
            plan = files_source("/in", sorted(here), per_unit)
            left = subtract(plan, committed(done), files_per_unit=per_unit)
            assert all(len(unit.files) <= per_unit for unit in left)
            done += [unit for unit in left if random.Random(f"{seed}{unit.unit}").random() < 0.5]
        plan = files_source("/in", sorted(here), per_unit)
        done += subtract(plan, committed(done), files_per_unit=per_unit)
        assert covered(done) == [f"/in/{n:03}.mp4" for n in sorted(here)]
        assert len({unit.unit for unit in done}) == len(done)


class TestSlice:
    def test_slices_divide_the_plan(self) -> None:
        units = [WorkUnit(unit=f"u-{n}", tar_uri=f"/{n}.tar") for n in range(500)]
        slices = [take_slice(units, index, 3) for index in range(3)]
        assert sorted(u.unit for s in slices for u in s) == sorted(u.unit for u in units)
        assert all(len(s) > 100 for s in slices)
        assert take_slice(units[:250], 1, 3) == [u for u in slices[1] if u in units[:250]]


def rows_plan(num_rows: int, per_unit: int, uri: str = "/list.csv") -> list[WorkUnit]:
    """Plan a list without a file; the place of a row is ten times its number."""
    return [
        rows_unit(
            ListRows(
                uri=uri,
                start=start,
                stop=min(start + per_unit, num_rows),
                known_row=start,
                known_byte=10 * start,
            )
        )
        for start in range(0, num_rows, per_unit)
    ]


def rows_of(units: Sequence[WorkUnit]) -> list[tuple[str, int]]:
    """Return every row of some units, sorted."""
    ranges = [parse_range(source) for unit in units for source in unit_sources(unit)]
    return sorted((uri, n) for uri, start, stop in filter(None, ranges) for n in range(start, stop))


class TestListRows:
    def test_a_list_that_grew_in_its_last_unit(self) -> None:
        old, new = rows_plan(10, 4), rows_plan(15, 4)
        left = subtract(new, committed(old))
        assert [unit_sources(unit)[0] for unit in left] == [
            "/list.csv#rows=10-12",
            "/list.csv#rows=12-15",
        ]
        assert left[0].rows is not None
        assert (left[0].rows.known_row, left[0].rows.known_byte) == (8, 80)
        assert subtract(new, committed([*old, *left])) == []

    def test_a_unit_that_overlaps_a_committed_one_is_covered(self) -> None:
        old, new = rows_plan(10, 4), rows_plan(15, 4)
        known = committed(old)
        assert known.covers(record(new[2]))
        assert not known.covers(record(new[3]))
        known.reopen(Reopened(unit=old[2].unit, sources=unit_sources(old[2])))
        assert known.covers(record(new[2])), "its rows belong to the unit that was reopened"
        assert not known.covers(record(old[2]))

    def test_a_reopened_unit_is_the_same_again_however_the_plan_cuts(self) -> None:
        old = rows_plan(10, 4)
        known = committed(old)
        known.reopen(Reopened(unit=old[2].unit, sources=unit_sources(old[2])))
        assert subtract(old, known) == [old[2]]
        left = subtract(rows_plan(15, 4), known)
        assert {unit.unit for unit in left} > {old[2].unit}
        assert rows_of(left) == [("/list.csv", n) for n in range(8, 15)]
        assert subtract(rows_plan(9, 9), known) == [], "it waits for a list that has its rows"

    @given(
        growth=st.lists(
            st.tuples(st.integers(0, 40), st.integers(1, 9), st.integers(0, 1 << 30)), max_size=7
        )
    )
    def test_rows_that_are_added_are_each_covered_once(
        self, growth: list[tuple[int, int, int]]
    ) -> None:
        """However a list grows, units are sized, reopened and lost, each row is in one unit."""
        num_rows, done, known = 0, {}, Committed()
        for added, per_unit, seed in [*growth, (0, 3, -1)]:
            num_rows += added
            for unit in subtract(rows_plan(num_rows, per_unit), known):
                luck = random.Random(f"{seed}{unit.unit}").random() if seed >= 0 else 0
                assert not known.covers(record(unit))
                if luck < 0.6:
                    known.add(unit.unit, unit_sources(unit))
                    done[unit.unit] = unit
                if luck < 0.1 and seed >= 0:
                    known.reopen(Reopened(unit=unit.unit, sources=unit_sources(unit)))
        assert rows_of(list(done.values())) == [("/list.csv", n) for n in range(num_rows)]
        assert subtract(rows_plan(num_rows, 5), known) == []
