import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.source import ListConfig, VideoSource
from pipeline.errors import ConfigError
from pipeline.records import LooseFile, WorkUnit, unit_sources
from pipeline.sources.media_types import is_hidden, is_image, is_video
from pipeline.sources.planning import cut_runs, plan_units, unit_id
from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server
from tests.pipeline.sources.reading import units_of


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def covered(units: Sequence[WorkUnit]) -> list[str]:
    return sorted(uri for unit in units for uri in unit_sources(unit))


class TestPlan:
    def test_a_tar_is_a_unit(self, tmp_path: Path) -> None:
        touch(tmp_path, "shard 0.tar", "b.TAR", "c.tar.gz", "notes.txt")
        units = units_of([str(tmp_path)])
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
        units = units_of([str(tmp_path)], files_per_unit=3)
        assert [[file.key for file in unit.files] for unit in units] == [
            ["00.mp4", "01.mp4", "02.mp4"],
            ["03.mp4", "04.mp4", "05.mp4"],
            ["06.mp4"],
        ]
        assert [unit.unit.rsplit("-", 1)[0] for unit in units] == ["00", "03", "06"]

    @given(images=st.lists(st.booleans(), max_size=600))
    def test_a_unit_has_16_videos_or_256_images_by_default(self, images: list[bool]) -> None:
        files = [
            LooseFile(key=f"{n}.{'jpg' if image else 'mp4'}", uri=f"/in/{n}", sidecar_uris=())
            for n, image in enumerate(images)
        ]
        runs = [unit.files for unit in cut_runs(files, None)]
        assert [file for run in runs for file in run] == files
        work = [sum(1 if is_image(file.key) else 16 for file in run) for run in runs]
        assert all(0 < done <= 256 for done in work)
        # No run could take the first file of the next.
        after = [1 if is_image(run[0].key) else 16 for run in runs[1:]]
        assert all(done + cost > 256 for done, cost in zip(work[:-1], after, strict=True))

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
        [unit] = units_of([f"{tmp_path}/{pattern}"])
        assert [file.key for file in unit.files] == keys

    def test_sidecars_go_to_the_longest_stem(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/x.mp4", "a/x.v1.mp4", "a/x.txt", "a/x.v1.json", "a/x.en.vtt")
        touch(tmp_path, "a/xy.txt", "a/.x.txt", "x.txt", "a/x.tar")
        [unit] = units_of([f"{tmp_path}/a/*.mp4"])
        sidecars = {file.key: [Path(uri).name for uri in file.sidecar_uris] for file in unit.files}
        assert sidecars == {"x.mp4": ["x.en.vtt", "x.txt"], "x.v1.mp4": ["x.v1.json"]}

    def test_hidden_and_foreign_files_are_no_input(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4", ".b.mp4", "._c.mp4", "__MACOSX/a.mp4", "mp4", "d.mp4.part")
        [unit] = units_of([str(tmp_path)])
        assert [file.key for file in unit.files] == ["a.mp4"]

    def test_a_file_reached_twice_counts_once(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.tar", "b.tar", "c.mp4")
        once = units_of([str(tmp_path)])
        twice = units_of([str(tmp_path), f"{tmp_path}/*.tar", f"file://{tmp_path}/c.mp4"])
        assert twice == once

    def test_brace_range(self, tmp_path: Path) -> None:
        touch(tmp_path, *[f"s-{n:03}.tar" for n in range(20)])
        units = units_of([f"{tmp_path}/s-{{000..019}}.tar"])
        assert [unit.tar_uri for unit in units] == [f"{tmp_path}/s-{n:03}.tar" for n in range(20)]

    def test_brace_range_of_folders(self, tmp_path: Path) -> None:
        touch(tmp_path, *[f"{n:02}/a.tar" for n in range(12)])
        assert len(units_of([f"{tmp_path}/{{00..11}}"])) == 12

    def test_brace_range_with_gaps(self, tmp_path: Path) -> None:
        touch(tmp_path, *[f"s-{n:03}.tar" for n in range(20) if n not in (3, 7)])
        with pytest.raises(ConfigError, match=r"2 of 20 names match nothing, first .*s-003.tar"):
            units_of([f"{tmp_path}/s-{{000..019}}.tar"])

    def test_a_name_with_braces_or_brackets_is_taken_as_it_is(self, tmp_path: Path) -> None:
        touch(tmp_path, "a{1,2}.tar", "b[1].tar", "c[1]/x.mp4")
        units = units_of([f"{tmp_path}/{n}" for n in ("a{1,2}.tar", "b[1].tar", "c[1]")])
        assert covered(units) == [
            f"{tmp_path}/{name}" for name in ("a{1,2}.tar", "b[1].tar", "c[1]/x.mp4")
        ]
        assert units[2].files[0].key == "x.mp4"

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            ("nothing/*.tar", "nothing/*.tar: matches no file"),
            ("nothing", "nothing: matches no file: /"),
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
            units_of([f"{tmp_path}/{pattern}"])
        assert str(caught.value).startswith("source.uri: ")
        assert text in str(caught.value)

    def test_single_files(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.tar", "b.mp4", "b.txt", "c.mp4", "d.csv")
        source = VideoSource(uri=[str(tmp_path)], files_per_unit=16)
        units = plan_units(source, single=True)
        assert [(unit.tar_uri, len(unit.files)) for unit in units] == [
            (f"{tmp_path}/a.tar", 0),
            (None, 1),
            (None, 1),
        ]
        assert [len(unit.files) for unit in plan_units(source)] == [0, 2]
        with pytest.raises(ConfigError, match="no tar"):
            plan_units(VideoSource(uri=[f"{tmp_path}/d.csv"]), single=True)

    def test_files_left_aside_are_counted(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4", "a.txt", "a.en.vtt", "b.mp4", "c.pdf", "d.pdf", "e", ".DS_Store")
        touch(tmp_path, "t/x.tar", "t/y.tar", "t/x.idx")
        notes: list[str] = []
        source = VideoSource(uri=[str(tmp_path), f"{tmp_path}/*.mp4"], exclude=["b*", "*/y.tar"])
        units = plan_units(source, notes=notes)
        assert covered(units) == [f"{tmp_path}/a.mp4", f"{tmp_path}/t/x.tar"]
        assert notes == [
            "6 files of the sources: 2 excluded, 4 of other types (.pdf 2, no extension 1, .idx 1)"
        ]
        notes.clear()
        plan_units(VideoSource(uri=[f"{tmp_path}/*.mp4"]), notes=notes)
        assert notes == []

    @pytest.mark.s3
    def test_on_s3(self, s3: S3Server, s3_store: Store) -> None:
        for name in ["a.tar", "v/x.mp4", "v/x.txt", "v/w/y.mp4", *[f"s/{n}.tar" for n in range(9)]]:
            s3_store.write(name, b"x")
        root = s3_store.uri
        units = units_of(
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


@pytest.mark.parametrize(
    ("name", "video"),
    [(f"a.{ext}", True) for ext in ("vob", "m2v", "asf", "3g2", "f4v", "dv", "ogm", "ivf")]
    + [("a.MP4", True), ("a.v1.mkv", True), ("mp4", False), ("dir.mp4/a", False), ("a.txt", False)],
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


class TestImages:
    def test_are_samples_where_they_are_wanted_and_stand_alone(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4", "a.jpg", "b.JPG", "b.txt", "c.png", "c.png.json", "d.txt")
        [unit] = units_of([str(tmp_path)], images=True)
        found = {file.key: [Path(s).name for s in file.sidecar_uris] for file in unit.files}
        assert found == {"a.mp4": ["a.jpg"], "b.JPG": ["b.txt"], "c.png": ["c.png.json"]}
        [unit] = units_of([str(tmp_path)])
        assert [file.key for file in unit.files] == ["a.mp4"]

    def test_a_folder_of_images_alone(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "b.webp")
        with pytest.raises(ConfigError, match="2 files, but no tar"):
            units_of([str(tmp_path)])
        [unit] = units_of([str(tmp_path / "*")], images=True, files_per_unit=2)
        assert [file.key for file in unit.files] == ["a.jpg", "b.webp"]

    def test_is_image(self) -> None:
        assert [is_image(n) for n in ("a.JPEG", "a.b.png", "png", "a.mp4")] == [
            True,
            True,
            False,
            False,
        ]


class TestLists:
    def test_are_named_by_how_a_pattern_ends(self, tmp_path: Path) -> None:
        touch(tmp_path, "v/a.mp4", "v/metadata.csv")
        (tmp_path / "v/metadata.csv").write_text("video\na.mp4\na.mp4\na.mp4\n")
        lists = ListConfig(rows_per_unit=2)
        [folder] = units_of([str(tmp_path / "v")], lists=lists)
        assert [file.key for file in folder.files] == ["a.mp4"]
        first, second = units_of([str(tmp_path / "v/*.csv")], lists=lists)
        uri = str(tmp_path / "v/metadata.csv")
        assert unit_sources(first) == (f"{uri}#rows=0-2",)
        assert unit_sources(second) == (f"{uri}#rows=2-3",)
        assert first.unit.startswith("metadata-")
        assert first.unit != second.unit

    def test_a_folder_of_lists_is_no_source(self, tmp_path: Path) -> None:
        touch(tmp_path, "in/a.parquet")
        with pytest.raises(ConfigError, match=r"use a pattern .* /.*/in/\*.parquet"):
            units_of([str(tmp_path / "in")], lists=ListConfig())

    def test_beside_tars_in_the_order_given(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.tar")
        for name in ("z.jsonl", "a.jsonl"):
            (tmp_path / name).write_text('{"video": "x.mp4"}\n')
        sources = [str(tmp_path / name) for name in ("z.jsonl", "b.tar", "*.jsonl")]
        units = units_of(sources, lists=ListConfig())
        found = [unit_sources(unit)[0].split("/")[-1] for unit in units]
        assert found == ["z.jsonl#rows=0-1", "b.tar", "a.jsonl#rows=0-1"]


def test_excluded_files_are_left_out_before_units_are_cut(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "held/b.mp4", "c.mp4", "d.mp4", "x.tar", "y.tar")
    source = VideoSource(uri=[str(tmp_path)], exclude=["held/*", "c.mp4", "*/x.tar"])
    units = units_of(source.uri, files_per_unit=2, exclude=source.exclude)
    assert [unit.tar_uri for unit in units if unit.tar_uri] == [f"{tmp_path}/y.tar"]
    assert [[file.key for file in unit.files] for unit in units if unit.files] == [
        ["a.mp4", "d.mp4"]
    ]
    with pytest.raises(ConfigError, match=r"source.exclude: excludes all sources"):
        units_of(source.uri, exclude=["*"])
