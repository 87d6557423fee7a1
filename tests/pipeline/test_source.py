import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.records import Counts, LooseFile, Reopened, UnitRecord, WorkUnit
from pipeline.source import (
    Committed,
    cut_runs,
    is_hidden,
    is_video,
    plan_units,
    subtract,
    take_slice,
    unit_id,
    unit_sources,
)
from pipeline.storage import Store
from tests.pipeline.s3 import S3Server


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def committed(units: Sequence[WorkUnit]) -> Committed:
    known = Committed()
    for unit in units:
        known.add(record(unit))
    return known


def record(unit: WorkUnit) -> UnitRecord:
    return UnitRecord(
        unit=unit.unit,
        sources=unit_sources(unit),
        parts=(),
        quarantine=None,
        counts=Counts(),
        reasons={},
    )


def covered(units: Sequence[WorkUnit]) -> list[str]:
    return sorted(uri for unit in units for uri in unit_sources(unit))


class TestPlan:
    def test_a_tar_is_a_unit(self, tmp_path: Path) -> None:
        touch(tmp_path, "shard 0.tar", "b.TAR", "c.tar.gz", "notes.txt")
        units = plan_units([str(tmp_path)])
        assert [unit.tar_uri for unit in units] == [
            f"{tmp_path}/b.TAR",
            f"{tmp_path}/c.tar.gz",
            f"{tmp_path}/shard 0.tar",
        ]
        stems = [unit.unit.rsplit("-", 1)[0] for unit in units]
        assert stems == ["b", "c", "shard-0"]

    def test_ids_are_pinned(self) -> None:
        """Ids are in every clip id ever written: they may not change between releases."""
        assert (
            unit_id("s3://b/shard-00.tar.gz", ["s3://b/shard-00.tar.gz"]) == "shard-00-8c14acad42d0"
        )
        assert unit_id("/v/é x.mp4", ["/v/é x.mp4", "/v/y.mp4"]) == "x-04e3d4ef91af"

    def test_loose_files_are_cut_into_sorted_runs(self, tmp_path: Path) -> None:
        names = [f"{n:02}.mp4" for n in range(7)]
        shuffled = names[:]
        random.Random(0).shuffle(shuffled)
        touch(tmp_path, *shuffled)
        units = plan_units([str(tmp_path)], files_per_unit=3)
        assert [[file.key for file in unit.files] for unit in units] == [
            ["00.mp4", "01.mp4", "02.mp4"],
            ["03.mp4", "04.mp4", "05.mp4"],
            ["06.mp4"],
        ]
        assert [unit.unit.rsplit("-", 1)[0] for unit in units] == ["00", "03", "06"]

    @pytest.mark.parametrize(
        ("pattern", "keys"),
        [
            ("", ["a/x.mp4", "a/x.webm", "a/y.mp4", "b/x.mp4"]),
            ("*/x.mp4", ["a/x.mp4", "b/x.mp4"]),
            ("**/*.mp4", ["a/x.mp4", "a/y.mp4", "b/x.mp4"]),
            ("a/*.mp4", ["x.mp4", "y.mp4"]),
            ("a/?.*", ["x.mp4", "x.webm", "y.mp4"]),
            ("a/x.mp4", ["x.mp4"]),
            ("{a,b}/x.mp4", ["a/x.mp4", "b/x.mp4"]),
            ("{a,b}", ["a/x.mp4", "a/x.webm", "a/y.mp4", "b/x.mp4"]),
        ],
    )
    def test_keys_are_relative_to_the_static_prefix(
        self, tmp_path: Path, pattern: str, keys: list[str]
    ) -> None:
        touch(tmp_path, "a/x.mp4", "a/x.webm", "a/y.mp4", "b/x.mp4", "b/readme.md")
        [unit] = plan_units([f"{tmp_path}/{pattern}"])
        assert [file.key for file in unit.files] == keys

    def test_sidecars_go_to_the_longest_stem(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/x.mp4", "a/x.v1.mp4", "a/x.txt", "a/x.v1.json", "a/x.en.vtt")
        touch(tmp_path, "a/xy.txt", "a/.x.txt", "x.txt", "a/x.tar")
        [unit] = plan_units([f"{tmp_path}/a/*.mp4"])
        sidecars = {file.key: [Path(uri).name for uri in file.sidecar_uris] for file in unit.files}
        assert sidecars == {"x.mp4": ["x.en.vtt", "x.txt"], "x.v1.mp4": ["x.v1.json"]}

    def test_hidden_and_foreign_files_are_no_input(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4", ".b.mp4", "._c.mp4", "__MACOSX/a.mp4", "mp4", "d.mp4.part")
        [unit] = plan_units([str(tmp_path)])
        assert [file.key for file in unit.files] == ["a.mp4"]

    def test_a_file_reached_twice_counts_once(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.tar", "b.tar", "c.mp4")
        once = plan_units([str(tmp_path)])
        twice = plan_units([str(tmp_path), f"{tmp_path}/*.tar", f"file://{tmp_path}/c.mp4"])
        assert twice == once

    def test_brace_range(self, tmp_path: Path) -> None:
        touch(tmp_path, *[f"s-{n:03}.tar" for n in range(20)])
        units = plan_units([f"{tmp_path}/s-{{000..019}}.tar"])
        assert [unit.tar_uri for unit in units] == [f"{tmp_path}/s-{n:03}.tar" for n in range(20)]

    def test_brace_range_of_folders(self, tmp_path: Path) -> None:
        touch(tmp_path, *[f"{n:02}/a.tar" for n in range(12)])
        assert len(plan_units([f"{tmp_path}/{{00..11}}"])) == 12

    def test_brace_range_with_gaps(self, tmp_path: Path) -> None:
        touch(tmp_path, *[f"s-{n:03}.tar" for n in range(20) if n not in (3, 7)])
        with pytest.raises(ConfigError, match=r"2 of 20 names match nothing, first .*s-003.tar"):
            plan_units([f"{tmp_path}/s-{{000..019}}.tar"])

    def test_a_name_with_braces_or_brackets_is_taken_as_it_is(self, tmp_path: Path) -> None:
        touch(tmp_path, "a{1,2}.tar", "b[1].tar", "c[1]/x.mp4")
        units = plan_units([f"{tmp_path}/{n}" for n in ("a{1,2}.tar", "b[1].tar", "c[1]")])
        assert covered(units) == [
            f"{tmp_path}/{name}" for name in ("a{1,2}.tar", "b[1].tar", "c[1]/x.mp4")
        ]
        assert units[2].files[0].key == "x.mp4"

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            ("nothing/*.tar", "nothing/*.tar: matches no file"),
            ("nothing", "nothing: matches no file"),
            ("{x,y}.tar", "{x,y}.tar: matches no file"),
            ("s-{000..999}.tar", "s-{000..999}.tar: matches no file"),
            ("*.md", "1 files, but no tar"),
            ("{a.tar", "unbalanced braces"),
        ],
    )
    def test_what_matches_nothing_is_a_mistake(
        self, tmp_path: Path, pattern: str, text: str
    ) -> None:
        touch(tmp_path, "readme.md", "a.tar")
        with pytest.raises(ConfigError) as caught:
            plan_units([f"{tmp_path}/{pattern}"])
        assert str(caught.value).startswith("source.uri: ")
        assert text in str(caught.value)

    def test_arguments_out_of_range(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4")
        with pytest.raises(ConfigError, match=r"files_per_unit = 0"):
            plan_units([str(tmp_path)], files_per_unit=0)
        with pytest.raises(ConfigError, match=r"source.uri is empty"):
            plan_units([])

    @pytest.mark.s3
    def test_on_s3(self, s3: S3Server, s3_store: Store) -> None:
        for name in ["a.tar", "v/x.mp4", "v/x.txt", "v/w/y.mp4", *[f"s/{n}.tar" for n in range(9)]]:
            s3_store.write(name, b"x")
        root = s3_store.uri
        units = plan_units(
            [f"{root}/a.tar", f"{root}/v", f"{root}/s/{{0..8}}.tar"],
            storage_options=s3.storage_options,
        )
        assert units[0].tar_uri == f"{root}/a.tar"
        assert units[1].files == (
            LooseFile(key="w/y.mp4", uri=f"{root}/v/w/y.mp4"),
            LooseFile(key="x.mp4", uri=f"{root}/v/x.mp4", sidecar_uris=(f"{root}/v/x.txt",)),
        )
        assert [unit.tar_uri for unit in units[2:]] == [f"{root}/s/{n}.tar" for n in range(9)]


names = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1
).filter(lambda name: name not in (".", ".."))


class TestIds:
    @given(st.lists(names, min_size=1, max_size=20, unique=True))
    def test_are_safe_in_file_names_and_unique(self, stems: list[str]) -> None:
        ids = [unit_id(f"/in/{stem}.tar", [f"/in/{stem}.tar"]) for stem in stems]
        assert len(set(ids)) == len(ids)
        for unit in ids:
            assert all(c.isascii() and (c.isalnum() or c in "_.-") for c in unit)
            assert unit[0] not in ".-"
            assert len(unit) <= 64 + 13

    def test_order_of_members_and_boundaries_matter(self) -> None:
        ids = {unit_id("/a.mp4", covers) for covers in (["/a", "/b"], ["/b", "/a"], ["/a/b"])}
        assert len(ids) == 3


def files_source(prefix: str, numbers: Sequence[int], per_unit: int) -> list[WorkUnit]:
    """Plan a folder that holds these files, without a file system."""
    files = [LooseFile(key=f"{n:03}.mp4", uri=f"{prefix}/{n:03}.mp4") for n in sorted(numbers)]
    return list(cut_runs(files, per_unit))


class TestSubtract:
    def test_committed_units_are_done(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.tar", "b.tar", *[f"{n}.mp4" for n in range(4)])
        units = plan_units([str(tmp_path)], files_per_unit=2)
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
        known.add(record(units[2]))
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

    @pytest.mark.parametrize(("index", "of"), [(3, 3), (-1, 3), (0, 0)])
    def test_out_of_range(self, index: int, of: int) -> None:
        with pytest.raises(ConfigError, match=f"slice = {index}/{of}"):
            take_slice([], index, of)


@pytest.mark.parametrize(
    ("name", "video"),
    [("a.MP4", True), ("a.v1.mkv", True), ("mp4", False), ("dir.mp4/a", False), ("a.txt", False)],
)
def test_is_video(name: str, video: bool) -> None:
    assert is_video(name) == video


def test_is_hidden() -> None:
    assert [is_hidden(n) for n in (".a", "x/._a", "__MACOSX/a", "x/a", ".x/a")] == [
        True,
        True,
        True,
        False,
        False,
    ]
