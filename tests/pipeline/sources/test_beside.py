"""Trees beside the sources: their tars and files join the samples by key."""

import io
import json
import logging
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.source import BesideConfig, VideoSource
from pipeline.errors import ConfigError, StoreError
from pipeline.quarantine import Quarantined
from pipeline.records import Sample, WorkUnit
from pipeline.sources import parallel_tar
from pipeline.sources.parallel_tar import ParallelTar
from pipeline.sources.planning import plan_units
from pipeline.sources.reader import SampleReader
from pipeline.storage.files import StoreReader
from tests.pipeline.s3 import S3Server
from tests.pipeline.sources.reading import read_all

METAS = BesideConfig(find="/video/", replace="/metas/")


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], *, form: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def meta(caption: str, **more: Any) -> bytes:
    """Return the metadata of a clip as cosmos-curate writes it."""
    windows = [
        {"start_frame": 0, "end_frame": 256, "qwen_caption": caption},
        {"start_frame": 256, "end_frame": 300, "qwen_caption": "a later window"},
    ]
    return json.dumps({"span_uuid": "u", "windows": windows, "valid": True, **more}).encode()


def shard(
    root: Path, videos: Sequence[str], metas: Sequence[tuple[str, bytes]] | None
) -> tuple[Path, Path]:
    part = root / "v0/resolution_720/aspect_ratio_16_9/frames_0_255"
    video = write_tar(part / "video/part_000000/000000.tar", [(f"{k}.mp4", b"v") for k in videos])
    other = part / "metas/part_000000/000000.tar"
    if metas is not None:
        write_tar(other, metas)
    return video, other


def problems(sample: Sample) -> Any:
    return json.loads(sample.meta or "{}").get("_problems", {})


def test_a_shard_of_cosmos_curate_has_its_captions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ["b6", "a1", "c3"]
    _, other = shard(tmp_path, keys, [(f"{k}.json", meta(f"clip {k}")) for k in keys])
    pickles = [(f"{k}.pickle", pickle.dumps([1])) for k in keys]
    write_tar(Path(str(other).replace("/metas/", "/t5_xxl/")), pickles)
    uri = f"{tmp_path}/v0/*/*/*/video/*/*.tar"
    both = [METAS, BesideConfig(find="/video/", replace="/t5_xxl/")]
    with caplog.at_level(logging.WARNING):
        found = read_all(uri, beside=both, caption="windows.qwen_caption")
    assert [(one.key, one.caption) for one in found] == [(k, f"clip {k}") for k in keys]
    assert not caplog.records
    for one in found:
        assert len(json.loads(one.meta)["json"]["windows"]) == 2, "meta keeps all windows"
        assert problems(one) == {"pickle": f"{one.key}.pickle is a pickle, which is never read"}
    without = read_all(uri)
    assert [(one.caption, one.meta) for one in without] == [(None, None)] * 3


def test_the_whole_tree_as_a_source_takes_no_parallel_tar_as_one(tmp_path: Path) -> None:
    shard(tmp_path, ["a"], [("a.json", b'{"caption": "A"}')])
    [found] = read_all(str(tmp_path), beside=[METAS])
    assert (found.key, found.caption) == ("a", "A")


class TestFiles:
    def test_a_split_of_cosmos_curate(self, tmp_path: Path) -> None:
        for name in ("clips", "metas/v0", "metas/v1"):
            (tmp_path / name).mkdir(parents=True)
        for key in ("a", "b.c", "b", "none"):
            (tmp_path / f"clips/{key}.mp4").write_bytes(b"v")
            if key != "none":
                (tmp_path / f"metas/v0/{key}.json").write_bytes(meta(key))
        (tmp_path / "metas/v0/unused.json").write_bytes(b"{}")
        beside = [BesideConfig(find="/clips/", replace="/metas/v0/")]
        settings = {"beside": beside, "caption": "windows.qwen_caption"}
        found = read_all(str(tmp_path), **settings)
        assert {one.key: one.caption for one in found} == {
            "clips/a.mp4": "a",
            "clips/b.c.mp4": "b.c",
            "clips/b.mp4": "b",
            "clips/none.mp4": None,
        }
        lacking = {one.key: problems(one) for one in found if problems(one)}
        assert lacking == {"clips/none.mp4": {"beside": f"no file {tmp_path}/metas/v0/none.*"}}
        notes: list[str] = []
        plan_units(VideoSource(uri=[str(tmp_path)], **settings), notes=notes)
        lacking_line, others = notes
        assert lacking_line == (
            "source.beside: /clips/ to /metas/v0/: nothing is there for 1 of 4 tars and files,"
            f" first {tmp_path}/metas/v0/none.mp4"
        )
        assert others == "1 files of the sources: 1 of other types (.json 1)"

    def test_texts_beside_videos_and_what_both_trees_hold(self, tmp_path: Path) -> None:
        """The layout for Cosmos-Predict2: `videos/`, `metas/*.txt`, `t5_xxl/*.pickle`."""
        for name, data in {
            "videos/a.mp4": b"v",
            "videos/a.json": b'{"from": "own"}',
            "metas/a.txt": b"the caption",
            "metas/a.json": b'{"from": "other"}',
            "t5_xxl/a.pickle": b"\x80",
        }.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        beside = [BesideConfig(find="/videos/", replace=f"/{to}/") for to in ("metas", "t5_xxl")]
        [found] = read_all(f"{tmp_path}/videos", beside=beside)
        assert found.caption == "the caption"
        assert json.loads(found.meta)["json"] == {"from": "own"}
        assert problems(found) == {
            "json": f"{tmp_path}/metas/a.json has this extension too and is left out",
            "pickle": f"{tmp_path}/t5_xxl/a.pickle is a pickle, which is never read",
        }

    def test_the_files_of_a_unit_are_its_sidecars_when_it_is_read(self, tmp_path: Path) -> None:
        for name in ("video/a.mp4", "metas/a.json"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_bytes(b'{"caption": "A"}')
        source = VideoSource(uri=[f"{tmp_path}/video"], beside=[METAS])
        [unit] = plan_units(source)
        assert unit.files[0].sidecar_uris == (f"{tmp_path}/metas/a.json",)
        (tmp_path / "metas/a.json").unlink()
        with pytest.raises(StoreError, match="its folder is missing or empty"):
            list(SampleReader(source).read(unit))


class TestTars:
    def test_a_parallel_tar_that_is_missing(self, tmp_path: Path) -> None:
        """A tree that holds nothing is a wrong setting; one tar without another is noted."""
        video, other = shard(tmp_path, ["a"], None)
        source = VideoSource(uri=[str(tmp_path)], beside=[METAS])
        with pytest.raises(ConfigError, match=rf"1 of 1 .*first {other}; correct find or replace"):
            plan_units(source)
        second = video.with_name("000001.tar")
        write_tar(second, [("b.mp4", b"v")])
        write_tar(other.with_name("000001.tar"), [("b.txt", b"B")])
        notes: list[str] = []
        units = plan_units(source, notes=notes)
        [line] = notes
        assert line == (
            "source.beside: /video/ to /metas/: nothing is there for 1 of 2 tars and files,"
            f" first {other}"
        )
        assert [unit.beside for unit in units] == [(), (f"{other.with_name('000001.tar')}",)]
        found = [one for unit in units for one in SampleReader(source).read(unit)]
        assert [(one.key, one.caption) for one in found] == [("a", None), ("b", "B")]

    def test_a_parallel_tar_that_went_away_is_waited_for(self, tmp_path: Path) -> None:
        _, other = shard(tmp_path, ["a"], [("a.txt", b"A")])
        source = VideoSource(uri=[str(tmp_path)], beside=[METAS])
        [unit] = plan_units(source)
        other.unlink()
        with pytest.raises(
            StoreError, match=r"000000\.tar: missing, although it existed when the job was planned"
        ):
            list(SampleReader(source).read(unit))

    def test_a_store_that_fails_is_no_verdict(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, other = shard(tmp_path, ["a"], [("a.txt", b"A")])
        source = VideoSource(uri=[str(tmp_path)], beside=[METAS])
        [unit] = plan_units(source)

        read = StoreReader.read

        def fails(reader: StoreReader, size: int = -1) -> bytes:
            if reader.name == str(other):
                raise StoreError("busy")
            return read(reader, size)

        with monkeypatch.context() as patch:
            patch.setattr(StoreReader, "read", fails)
            with pytest.raises(StoreError, match="busy"):
                list(SampleReader(source).read(unit))
        [found] = SampleReader(source).read(unit)
        assert isinstance(found, Sample)
        assert found.caption == "A"

    def test_what_lacks_is_counted_in_one_line(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        metas = [("x.txt", b"X"), ("c.txt", b"C"), ("a.txt", b"A"), ("a.txt", b"again")]
        _, other = shard(tmp_path, ["a", "b", "c", "a"], metas)
        with caplog.at_level(logging.WARNING):
            found = read_all(str(tmp_path), beside=[METAS])
        a, b, c, again = found
        assert (a.caption, b.caption, c.caption) == ("A", None, "C")
        assert problems(b) == {"beside": f"{other}: has no member of this key"}
        assert isinstance(again, Quarantined)
        assert again.reason == "duplicate_key"
        [record] = caplog.records
        assert record.getMessage() == (
            f"{other} has nothing for 1 of 3 samples, first b; 2 of its keys are of no sample"
        )

    def test_a_parallel_tar_is_no_source_of_videos(self, tmp_path: Path) -> None:
        shard(tmp_path, ["a"], [("a.depth.mp4", b"other"), ("a.mp4", b""), ("a.txt", b"A")])
        [found] = read_all(str(tmp_path), beside=[METAS])
        assert (found.video, found.caption, found.meta) == (b"v", "A", None)

    def test_a_parallel_tar_that_breaks_off(self, tmp_path: Path) -> None:
        """Damage costs the sidecars behind it and no video."""
        keys = ["a", "b", "c"]
        _, other = shard(tmp_path, keys, [(f"{k}.txt", k.encode() * 600) for k in keys])
        other.write_bytes(other.read_bytes()[: 3 * 512 + 512 + 100])
        found = read_all(str(tmp_path), beside=[METAS])
        assert [one.caption and one.caption[0] for one in found] == ["a", None, None]
        assert "unexpected end of data" in problems(found[2])["beside"]


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        ("a.json", b"{" * 10_000, "not JSON"),
        ("a.json", b'[{"windows": 3}]', None),
        ("a.json", b'{"windows": {"qwen_caption": ["", 7, " first text "]}}', "first text"),
        ("a.json", b'{"windows": [7, null, {"qwen_caption": 7}, [{"qwen_caption": "x"}]]}', "x"),
        ("a.json", b"\xff\xfe", "not UTF-8"),
        ("a.json", bytes(1 << 21), "has 2097152 bytes, the limit is 1048576"),
    ],
    ids=["nested", "list", "texts", "odd", "bytes", "huge"],
)
def test_json_of_any_shape_costs_no_video(
    name: str, data: bytes, wanted: str | None, tmp_path: Path
) -> None:
    shard(tmp_path, ["a"], [(name, data)])
    [found] = read_all(str(tmp_path), beside=[METAS], caption="windows.qwen_caption")
    assert found.video == b"v"
    assert wanted in (None, found.caption) or wanted in problems(found)["json"]


KEYS = st.lists(st.sampled_from("abcdefgh"), max_size=12)


@given(own=st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8), others=KEYS)
def test_keys_join_in_any_order(
    own: list[str], others: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The first group of a key counts, wherever it is; neighbours with other extensions join."""
    members = [(f"{key}.txt", f"{key}{n}".encode()) for n, key in enumerate(others)]
    path = write_tar(tmp_path_factory.mktemp("join") / "o.tar", members)
    first = {key: f"{key}{others.index(key)}".encode() for key in others}
    with ParallelTar(str(path), None) as tar:
        for key in own:
            found, lacking = tar.members(key)
            assert [member.data for member in found] == ([first[key]] if key in first else [])
            assert (lacking is None) == (key in first)


@given(
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    end=st.integers(0, 10_240),
)
def test_damage_costs_no_video(
    flips: list[tuple[int, int]], end: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = ["a", "b", "c"]
    folder = tmp_path_factory.mktemp("damage")
    _, other = shard(folder, keys, [(f"{k}.json", meta(k)) for k in keys])
    data = bytearray(other.read_bytes())
    for at, value in flips:
        data[at] = value
    other.write_bytes(data[:end])
    found = read_all(str(folder), beside=[METAS], caption="windows.qwen_caption")
    assert [(one.key, one.video) for one in found] == [(key, b"v") for key in keys]


def test_keys_in_another_order_are_held_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel_tar, "MAX_HELD_BYTES", 1 << 20)
    keys = [f"{n:03}" for n in range(100)]
    path = write_tar(tmp_path / "o.tar", [(f"{k}.txt", bytes(100_000)) for k in keys])
    with ParallelTar(str(path), None) as tar:
        assert all(tar.members(key)[1] is None for key in keys), "one order holds nothing"
    with ParallelTar(str(path), None) as tar:
        members, lacking = tar.members("099")
        assert (members, lacking) == (
            [],
            f"{path}: 1 MiB of it are of keys that have not come; give both tars one order",
        )
        assert [tar.members(key)[1] is None for key in ("003", "010", "050")] == [True, True, False]


def test_huge_members_are_skipped(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "o.tar.gz",
        [("a.txt", bytes(50 << 20)), ("b.mp4", bytes(50 << 20)), ("c.txt", b"C")],
        form="w:gz",
    )
    with ParallelTar(str(path), None) as tar:
        found, _ = tar.members("c")
        assert [member.data for member in found] == [b"C"]
        [huge], _ = tar.members("a")
        assert huge.data is None
        assert str(huge.problem) == "a.txt has 52428800 bytes, the limit is 1048576"


def test_a_protocol_that_is_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"v")
    beside = [BesideConfig(find=f"{tmp_path}/", replace="ftp://host/")]
    with pytest.raises(ConfigError, match="protocol ftp is not allowed"):
        plan_units(VideoSource(uri=[str(tmp_path)], beside=beside))


def test_a_unit_says_what_is_beside_it_only_if_asked(tmp_path: Path) -> None:
    shard(tmp_path, ["a"], [])
    [with_metas] = plan_units(VideoSource(uri=[str(tmp_path)], beside=[METAS]))
    plain = plan_units(VideoSource(uri=[f"{tmp_path}/**/video/**/*.tar"]))
    assert [(unit.unit, unit.tar_uri) for unit in plain] == [(with_metas.unit, with_metas.tar_uri)]
    assert plain == [WorkUnit(unit=with_metas.unit, tar_uri=with_metas.tar_uri)]


@pytest.mark.s3
def test_trees_in_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    """A refusal under the second tree is retried as one under the first."""
    root = s3.bucket()
    video, other = shard(tmp_path, ["a"], [("a.txt", b"A")])
    s3.put(f"{root}/video/0.tar", video.read_bytes())
    s3.put(f"{root}/metas/0.tar", other.read_bytes())
    s3.put(f"{root}/video/b.mp4", b"v")
    s3.put(f"{root}/metas/b.json", b'{"caption": "B"}')
    source = VideoSource(uri=[f"{root}/video"], beside=[METAS], storage_options=s3.storage_options)
    units = plan_units(source)
    for unit in units:
        refused = s3.faults.times("refuse_503", 1, method="GET", part="metas")
        with refused, pytest.raises(StoreError):
            list(SampleReader(source).read(unit))
    found = [one for unit in units for one in SampleReader(source).read(unit)]
    assert [(one.key, one.caption) for one in found] == [("a", "A"), ("b.mp4", "B")]
