"""Tars made to take memory or time: read up to a limit, and what is before it counts."""

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pytest

import pipeline.sources.tar_groups
import pipeline.sources.tar_samples
import pipeline.sources.tar_stream
from pipeline.quarantine import Quarantined
from pipeline.records import Sample, WorkUnit
from pipeline.sources.tar_groups import MemberGroup, read_groups, split_name
from pipeline.sources.tar_stream import DamagedTar, TarPastLimit
from pipeline.sources.text import PROBLEMS
from tests.pipeline.sources.reading import read_samples
from tests.pipeline.sources.test_reader import read_tar, reasons, samples
from tests.pipeline.tars import Files, make_tar

LIMIT = 1_000_000
GOOD: Files = [("a.mp4", b"A" * 700), ("a.txt", b"first")]
END = bytes(1024)


def body(files: Files) -> bytes:
    """Return members without an end mark."""
    return b"".join(header(name, len(data)) + padded(data) for name, data in files)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[str, bytes], kind: bytes = tarfile.XHDTYPE) -> bytes:
    data = b""
    for key, value in records:
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = len(rest) + 1
        while length != len(rest) + len(str(length)):
            length = len(rest) + len(str(length))
        data += str(length).encode() + rest
    return header("pax", len(data), kind) + padded(data)


def read(tar: bytes, limit: int = LIMIT) -> tuple[list[MemberGroup], DamagedTar | None]:
    groups: list[MemberGroup] = []
    try:
        groups += read_groups(cast("BinaryIO", io.BytesIO(tar)), max_video_bytes=limit)
    except DamagedTar as damage:
        return groups, damage
    return groups, None


def peak_of(work: Callable[[], object]) -> int:
    """Return the most bytes that Python had allocated at once meanwhile."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def assert_past_limit(tar: bytes, words: str) -> None:
    groups, damage = read(body(GOOD) + tar)
    assert isinstance(damage, TarPastLimit)
    assert words in str(damage)
    assert [group.key for group in groups] == ["a"]


class TestMembers:
    def test_of_one_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipeline.sources.tar_groups, "MAX_MEMBERS", 20)
        sample = [(f"b.{n}", b"") for n in range(21)]
        groups, damage = read(body([*GOOD, *sample[:20], *GOOD]) + END)
        assert [len(group.members) for group in groups] == [2, 20, 2]
        assert damage is None
        groups, damage = read(body([*GOOD, *sample, *GOOD]) + END)
        assert [group.key for group in groups] == ["a"]
        assert isinstance(damage, TarPastLimit)
        assert damage.key == "b"

    def test_names_of_one_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipeline.sources.tar_groups, "MAX_NAMES_BYTES", 2000)
        assert_past_limit(body([(f"b.{n:090}", b"") for n in range(30)]) + END, "in one sample")

    def test_ordinary_samples_are_far_from_it(self) -> None:
        assert pipeline.sources.tar_groups.MAX_MEMBERS >= 5 * 60 * 30
        frames = [(f"folder/b.frame{n:05}.jpg", b"") for n in range(9000)]
        [group], damage = read(body([("folder/b.mp4", b"x"), *frames]) + END)
        assert len(group.members) == 9001
        assert damage is None

    def test_sidecars_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with a large one: they do not cost the video."""
        monkeypatch.setattr(pipeline.sources.tar_groups, "MAX_SIDECARS_BYTES", 1000)
        files = [
            ("b.x", b"1" * 600),
            ("b.mp4", b"2" * 600),
            ("b.y", b"3" * 401),
            ("b.z", b"4" * 400),
        ]
        [group], damage = read(body(files) + END)
        assert [member.data is None for member in group.members] == [False, False, True, False]
        assert "b.y: the sample's sidecars have more than 1000 bytes" in str(
            group.members[2].problem
        )
        assert damage is None

    def test_videos_of_one_sample_are_held_up_to_the_limit_of_one(self, tmp_path: Path) -> None:
        files = [(f"b.{n}.mp4", bytes(500_000)) for n in range(40)]
        tar = body([*files, ("c.mp4", b"x")]) + END
        assert peak_of(lambda: read(tar)) < 4 << 20
        assert reasons(read_tar(tar, tmp_path)) == [("b", "several_videos"), ("c", None)]

    def test_images_of_one_sample(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = [("b.png", b"x"), *((f"b.{n}.png", bytes(300_000)) for n in range(40))]
        tar = cast("BinaryIO", io.BytesIO(body(files) + END))
        [group] = read_groups(tar, max_video_bytes=LIMIT, images=True)
        assert [member.data is not None for member in group.members] == [True] * 4 + [False] * 37
        monkeypatch.setattr(pipeline.sources.tar_samples, "MAX_SIDECARS_BYTES", 600_000)
        path = tmp_path / "images.tar"
        path.write_bytes(body(files) + END)
        unit = WorkUnit(unit="images-0123456789ab", tar_uri=str(path))
        [sample] = read_samples(unit, max_video_mb=1, images=True, max_meta_kb=4000)
        assert isinstance(sample, Sample)
        meta = json.loads(sample.meta or "")
        assert sorted(set(meta) - {PROBLEMS}) == ["0.png", "1.png"]
        assert "more than 600000 bytes of sidecars" in meta[PROBLEMS]["2.png"]

    def test_many_empty_ones_before_the_first_sample(self) -> None:
        tar = body([("noext", b"")] * 5_000 + [*GOOD]) + END
        assert peak_of(lambda: read(tar)) < 4 << 20
        groups, damage = read(tar)
        assert [group.key for group in groups] == ["a"]
        assert damage is None

    def test_samples_of_one_tar(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipeline.sources.tar_samples, "MAX_KEPT_BYTES", 10_000)
        tar = body([(f"{n}.{end}", b"x") for n in range(20) for end in ("mp4", "txt")]) + END
        *before, last = read_tar(tar, tmp_path)
        assert reasons(before) == [(str(n), None) for n in range(9)]
        assert isinstance(last, Quarantined)
        assert last.reason == "tar_past_limit"
        assert "make several tars of it" in last.detail

    def test_a_record_does_not_repeat_all_names(self, tmp_path: Path) -> None:
        tar = body([(f"b.{n:090}", b"") for n in range(500)]) + END
        [outcome] = read_tar(tar, tmp_path)
        assert isinstance(outcome, Quarantined)
        assert len(outcome.detail) < 1100

    def test_a_tar_of_tars_is_not_opened(self, tmp_path: Path) -> None:
        inner = make_tar([("inner.mp4", b"x")])
        tar = body([("b.mp4", b"x"), ("b.tar", inner), ("c.tar", inner)]) + END
        first, second = read_tar(tar, tmp_path)
        assert reasons([first, second]) == [("b", None), ("c", "no_video")]


class TestHeaders:
    def test_long_names(self) -> None:
        name = "n" * 4092 + ".mp4"
        [group], damage = read(pax(("path", name.encode())) + header("x", 0) + END)
        assert (group.key, damage) == (name[:-4], None)
        assert_past_limit(pax(("path", b"n" + name.encode())) + header("x", 0) + END, "4097 bytes")

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_headers_of_one_member(self, kind: bytes) -> None:
        assert_past_limit(header("long", 1 << 40, kind), "before one member")
        assert_past_limit((header("long", 600_000, kind) + bytes(600_064)) * 2, "before one member")

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK])
    def test_an_endless_chain(self, kind: bytes) -> None:
        assert_past_limit((header("long", 2, kind) + bytes(512)) * 3000, "before one member")

    @pytest.mark.parametrize(
        "value", [b"1" * 900_000, b"1 " * 450_000, b"2 2 " * 200_000, b"a/" * 400_000]
    )
    def test_a_long_value_costs_no_more_than_its_length(self, value: bytes) -> None:
        """tarfile takes hours for the first, and hundreds of GiB for the third."""
        tar = body(GOOD) + pax(("comment", value)) + body([("b.mp4", b"x")]) + END
        assert peak_of(lambda: read(tar)) < 16 << 20
        assert [group.key for group in read(tar)[0]] == ["a", "b"]
        garbage = header("pax", len(value), tarfile.XHDTYPE) + padded(value)
        groups, damage = read(body(GOOD) + garbage + header("b.mp4", 0) + END)
        assert [group.key for group in groups] == ["a"]
        assert damage is not None

    def test_global_headers_are_not_kept(self) -> None:
        """tarfile keeps them all, and copies them into every member."""
        shared = [
            pax(*((f"{n}.{m}", b"x" * 40) for m in range(500)), kind=tarfile.XGLTYPE)
            for n in range(100)
        ]
        tar = b"".join(one + body([(f"{n}.mp4", b"")]) for n, one in enumerate(shared)) + END
        assert peak_of(lambda: read(tar)) < 4 << 20
        assert len(read(tar)[0]) == 100

    def test_a_negative_size(self) -> None:
        bad = bytearray(header("b.mp4", 0))
        bad[124:136] = b"\xff" + struct.pack(">3sq", b"\xff\xff\xff", -512)
        bad[148:156] = b" " * 8
        bad[148:156] = b"%06o\0 " % sum(bad)
        groups, damage = read(body(GOOD) + bytes(bad) + END)
        assert [group.key for group in groups] == ["a"]
        assert "a size of -512" in str(damage)

    def test_splitting_a_long_name_is_quick(self) -> None:
        """WebDataset's expression takes the square of the length."""
        assert split_name("a/" * 500_000 + "x") is None
        assert split_name("a/" * 500_000 + "x.mp4") is not None


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
class TestCompression:
    def test_padding_takes_no_memory(self, pack: Callable[[bytes], bytes]) -> None:
        tar = pack(body(GOOD) + header("large.bin", 64 << 20) + bytes(64 << 20) + body(GOOD) + END)
        assert peak_of(lambda: read(tar)) < 24 << 20
        groups, damage = read(tar)
        assert [group.key for group in groups] == ["a", "large", "a"]
        assert damage is None

    @pytest.mark.parametrize("name", ["large.mp4", "large.bin", "belongs-to-no-sample"])
    def test_ratio(
        self, pack: Callable[[bytes], bytes], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline.sources.tar_stream, "FREE_BYTES", 2 << 20)
        tar = pack(body(GOOD) + header(name, 16 << 20) + bytes(16 << 20) + END)
        groups, damage = read(tar)
        assert isinstance(damage, TarPastLimit)
        assert "comes out of its compression" in str(damage)
        assert groups[0].key == "a"

    def test_ordinary_ones_are_far_from_it(
        self, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Sidecars pack well, and videos hardly: videos of no more than three kilobytes."""
        monkeypatch.setattr(pipeline.sources.tar_stream, "FREE_BYTES", 0)
        monkeypatch.setattr(pipeline.sources.tar_stream, "MAX_RATIO", 5)
        noise = random.Random(0)
        files = [
            (f"a/{n:06}.{end}", noise.randbytes(3000) if end == "mp4" else b"a caption")
            for n in range(300)
            for end in ("json", "txt", "mp4", "cls", "vtt")
        ]
        groups, damage = read(pack(body(files) + END))
        assert len(groups) == 300
        assert damage is None


def test_gzip_members_reach_the_limit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.sources.tar_stream, "FREE_BYTES", 64 << 20)
    zeros = gzip.compress(bytes(16 << 20))
    tar = gzip.compress(body(GOOD) + header("large.bin", 2 << 30)) + zeros * 128
    *before, last = read_tar(tar, tmp_path)
    assert [sample.key for sample in samples(before)] == ["a"]
    assert isinstance(last, Quarantined)
    assert last.reason == "tar_past_limit"
    assert "pack it without" in last.detail


def test_gzip_members_are_one_tar() -> None:
    tar = body(GOOD) + body([("b.mp4", b"x")]) + END
    packed = b"".join(gzip.compress(tar[at : at + 700]) for at in range(0, len(tar), 700))
    groups, damage = read(packed)
    assert [group.key for group in groups] == ["a", "b"]
    assert damage is None


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
class TestBehindTheEndMark:
    """An end mark ends one tar; what follows is read, or a record says that it is lost."""

    @pytest.mark.parametrize("extra", [b"\x01" * 100_000, b"\x01" * 512, b"words"])
    def test_what_is_not_a_tar_is_damage(
        self, pack: Callable[[bytes], bytes], extra: bytes
    ) -> None:
        for tar in (pack(body(GOOD) + END) + extra, pack(body(GOOD) + END + extra)):
            groups, damage = read(tar)
            assert [group.key for group in groups] == ["a"]
            assert damage is not None
            assert "behind the end mark" in str(damage) or "compression" in str(damage)

    @pytest.mark.parametrize("zeros", [0, 1, 511, 512, 10_240, 1 << 20])
    def test_zeros_are_padding(self, pack: Callable[[bytes], bytes], zeros: int) -> None:
        for tar in (pack(body(GOOD) + END) + bytes(zeros), pack(body(GOOD) + END + bytes(zeros))):
            groups, damage = read(tar)
            assert ([group.key for group in groups], damage) == (["a"], None)

    def test_a_second_tar_is_read(self, pack: Callable[[bytes], bytes]) -> None:
        first = body([("a.mp4", b"1"), ("a.txt", b"A")]) + END
        second = pax(("path", b"b.txt"), kind=tarfile.XGLTYPE) + body([("x", b"B")]) + END
        third = body([("b.mp4", b"2"), ("c.mp4", b"3")]) + END
        for tar in (pack(first + second + third), pack(first) + pack(second) + pack(third)):
            groups, damage = read(tar)
            assert damage is None
            assert [(g.key, sorted(g.extensions)) for g in groups] == [
                ("a", ["mp4", "txt"]),
                ("b", ["txt"]),  # a tar is the end of a sample, and of a global header
                ("b", ["mp4"]),
                ("c", ["mp4"]),
            ]

    def test_a_second_tar_that_is_cut(self, pack: Callable[[bytes], bytes]) -> None:
        first = body([("a.mp4", b"1"), ("a.txt", b"A"), ("b.mp4", b"2")]) + END
        groups, damage = read(pack(first + body([("c.mp4", b"x" * 600)])[:-600]))
        assert [group.key for group in groups] == ["a", "b"]
        assert damage is not None
        assert (damage.truncated, damage.key) == (True, "c")


def test_a_huge_dictionary() -> None:
    tar = bytearray(lzma.compress(body(GOOD) + END))
    assert len(read(bytes(tar))[0]) == 1
    tar[16] = 38  # in the block's header: 2 GiB
    tar[20:24] = struct.pack("<I", zlib.crc32(tar[12:20]))
    groups, damage = read(bytes(tar))
    assert groups == []
    assert isinstance(damage, TarPastLimit)
    assert "xz -9" in str(damage)
