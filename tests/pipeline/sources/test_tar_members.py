import gzip
import io
import random
import tarfile
import tracemalloc
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

from pipeline.errors import StoreError
from pipeline.sources.sidecars import MAX_SIDECAR_BYTES
from pipeline.sources.tar_groups import MemberGroup, read_groups, split_name
from pipeline.sources.tar_stream import DamagedTar
from tests.pipeline.tars import Files, files_of, good_tars, make_tar, member_offsets

LIMIT = 1_000_000


def groups_of(tar: bytes, limit: int = LIMIT) -> tuple[list[MemberGroup], DamagedTar | None]:
    """Read forward only, as from a network: what came out, and how it ended."""
    groups: list[MemberGroup] = []
    try:
        groups += read_groups(ForwardOnly(tar), max_video_bytes=limit)
    except DamagedTar as damage:
        return groups, damage
    return groups, None


class ForwardOnly(io.RawIOBase):
    """A stream that hands out at most 1000 bytes at a time and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)

    def seek(self, *args: int) -> int:
        raise AssertionError("streaming may not seek")


def header_of(tar: bytes, member: str) -> int:
    """Return the offset of a member's header."""
    return next(start for name, start, _ in member_offsets(tar) if name == member)


def by_key(tar: bytes) -> list[tuple[str, dict[str, bytes | None]]]:
    groups, damage = groups_of(tar)
    assert damage is None
    return [(g.key, {m.extension: m.data for m in g.members}) for g in groups]


@given(good_tars(), st.sampled_from(["w", "w:gz", "w:bz2"]), st.sampled_from([0, 1, 2]))
def test_good_tars_read_as_webdataset_reads_them(
    samples: list[tuple[str, dict[str, bytes]]], mode: str, format: int
) -> None:
    tar = make_tar(files_of(samples), mode=mode, format=format)
    theirs = [
        (sample["__key__"], {name: sample[name] for name in sample if name[:2] != "__"})
        for sample in group_by_keys(
            {"__url__": "x.tar", **member}
            for member in tar_file_iterator(cast("tarfile.TarFile", io.BytesIO(tar)))
        )
    ]
    assert by_key(tar) == theirs
    assert len(theirs) == len(samples)


@given(st.text("ab./_ X", min_size=1, max_size=12))
def test_names_split_as_webdataset_splits_them(name: str) -> None:
    theirs = base_plus_ext(name)
    ours = split_name(name)
    if ours is None:
        assert theirs[0] is None or name.rpartition("/")[2].startswith(".") or "__" in name
    else:
        assert ours == (theirs[0], theirs[1].lower())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/clip.v1.mp4", ("a/clip", "v1.mp4")),
        ("a.b/clip.mp4", ("a.b/clip", "mp4")),
        ("UP.MP4", ("UP", "mp4")),
        ("./b/x.mp4", ("./b/x", "mp4")),
        ("../../etc/x.mp4", ("../../etc/x", "mp4")),
        ("/abs/x.mp4", ("/abs/x", "mp4")),
        ("__MACOSX/a/x.mp4", None),
        ("__MACOSX/._x.mp4", None),
        ("a/._x.mp4", None),
        (".hidden.mp4", None),
        ("noext", None),
        ("__meta__", None),
        ("__meta__/x.json", None),
    ],
)
def test_keys(name: str, key: tuple[str, str] | None) -> None:
    assert split_name(name) == key


SAMPLES: Files = [
    ("a.mp4", b"A" * 700),
    ("a.txt", b"first"),
    ("b.mp4", b"B" * 512),
    ("b.txt", b"second"),
    ("c.mp4", b"C" * 10),
    ("c.txt", b"third"),
]


def test_empty_tar_has_no_samples() -> None:
    assert groups_of(make_tar([])) == ([], None)
    assert groups_of(bytes(512)) == ([], None)


def test_one_block_of_end_mark_is_enough() -> None:
    tar = make_tar(SAMPLES)
    end = member_offsets(tar)[-1][2]
    padded = -(-end // 512) * 512
    groups, damage = groups_of(tar[: padded + 512])
    assert [group.key for group in groups] == ["a", "b", "c"]
    assert damage is None


@given(st.data())
def test_a_tar_cut_anywhere_loses_only_what_is_behind_the_cut(data: st.DataObject) -> None:
    samples = data.draw(good_tars().filter(bool))
    tar = make_tar(files_of(samples))
    members = member_offsets(tar)
    end_mark = -(-members[-1][2] // 512) * 512
    cut = data.draw(st.integers(0, end_mark + 511))
    groups, damage = groups_of(tar[:cut])
    assert damage is not None
    assert damage.truncated
    whole = {name for name, _, end in members if end <= cut}
    present = [(g.key, {m.extension: m.data for m in g.members}) for g in groups]
    wanted = [(key, {e.lower(): d for e, d in parts.items()}) for key, parts in samples]
    # Whole samples and only whole samples; the last may have lost sidecars behind the cut.
    assert present[:-1] == wanted[: len(present[:-1])]
    complete = [
        key for key, parts in samples if all(f"{key}.{extension}" in whole for extension in parts)
    ]
    assert [key for key, _ in present][: len(complete)] == complete or damage.key == complete[-1]
    assert len(complete) - 1 <= len(present) <= len(complete) + 1


def test_cut_inside_a_member_names_its_sample() -> None:
    tar = make_tar(SAMPLES)
    offsets = {name: (start, end) for name, start, end in member_offsets(tar)}
    groups, damage = groups_of(tar[: offsets["b.txt"][1] - 1])
    assert [group.key for group in groups] == ["a"]
    assert damage is not None
    assert (damage.key, damage.truncated) == ("b", True)


def test_cut_inside_the_first_member_of_a_sample_spares_the_one_before() -> None:
    tar = make_tar(SAMPLES)
    offsets = {name: (start, end) for name, start, end in member_offsets(tar)}
    groups, damage = groups_of(tar[: offsets["b.mp4"][1] - 1])
    assert [group.key for group in groups] == ["a"]
    assert damage is not None
    assert damage.key == "b"


def test_cut_between_samples() -> None:
    """tarfile and webdataset read this without a word."""
    tar = make_tar(SAMPLES)
    start = header_of(tar, "c.mp4")
    with tarfile.open(fileobj=io.BytesIO(tar[:start]), mode="r|") as silent:
        assert len(list(silent)) == 4
    groups, damage = groups_of(tar[:start])
    assert [(group.key, group.extensions) for group in groups] == [
        ("a", {"mp4", "txt"}),
        ("b", {"mp4", "txt"}),
    ]
    assert damage is not None
    assert (damage.key, damage.truncated) == (None, True)


def test_cut_between_the_members_of_a_sample() -> None:
    """The video is there, the caption is not: it may not pass for a sample without caption."""
    tar = make_tar(SAMPLES)
    start = header_of(tar, "b.txt")
    groups, damage = groups_of(tar[:start])
    assert [group.key for group in groups] == ["a"]
    assert damage is not None
    assert (damage.key, damage.truncated) == ("b", True)


def test_cut_inside_a_header() -> None:
    tar = make_tar(SAMPLES)
    start = header_of(tar, "c.mp4")
    groups, damage = groups_of(tar[: start + 100])
    assert [group.key for group in groups] == ["a", "b"]
    assert damage is not None
    assert damage.truncated


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_cut_compressed_tar(mode: str) -> None:
    noise = random.Random(0).randbytes(200_000)
    tar = make_tar([("a.mp4", noise), ("b.mp4", noise[::-1])], mode=mode)
    groups, damage = groups_of(tar[: len(tar) * 3 // 4])
    assert [group.key for group in groups] == ["a"]
    assert damage is not None
    assert (damage.truncated, damage.key) == (True, "b")


@pytest.mark.parametrize("content", [b"", b"x", b"not a tar" * 200])
def test_what_is_no_tar(content: bytes) -> None:
    groups, damage = groups_of(content)
    assert groups == []
    assert damage is not None
    assert damage.truncated == (len(content) < 512)


def test_damage_in_the_middle() -> None:
    """tarfile takes a bad header for the end of the tar."""
    tar = bytearray(make_tar(SAMPLES))
    start = header_of(bytes(tar), "c.mp4")
    tar[start : start + 512] = b"\x01" * 512
    groups, damage = groups_of(bytes(tar))
    assert [group.key for group in groups] == ["a", "b"]
    assert damage is not None
    assert not damage.truncated
    assert "bad header" in str(damage)


@pytest.mark.parametrize("power", [20, 40, 64, 79])
@pytest.mark.parametrize("name", ["c.mp4", "c.json", "no-sample"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_size_beyond_the_end_is_the_end(power: int, name: str, mode: str) -> None:
    """A declared size, however large, is skipped no further than there is data."""
    header = tarfile.TarInfo(name)
    header.size = 2**power
    plain = make_tar(SAMPLES[:2]).rstrip(b"\0")
    plain += bytes(-len(plain) % 512) + header.tobuf(tarfile.GNU_FORMAT) + bytes(2048)
    groups, damage = groups_of(gzip.compress(plain) if mode == "w:gz" else plain)
    assert [group.key for group in groups] == ["a"]
    assert damage is not None
    assert damage.truncated


def test_headers_upon_headers_are_damage() -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    chain = (header.tobuf(tarfile.GNU_FORMAT) + b"a\0" + bytes(510)) * 3000
    groups, damage = groups_of(chain + bytes(1024))
    assert groups == []
    assert damage is not None


@pytest.mark.parametrize("record", [b"garbage", b"12 size=a\n", b"99 path=x\n", b"0 a=b\n"])
def test_a_bad_extended_header_is_no_silent_end(record: bytes) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    bad = header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    tar = make_tar(SAMPLES)
    start = header_of(tar, "c.mp4")
    groups, damage = groups_of(tar[:start] + bad + tar[start:])
    assert [group.key for group in groups][:2] == ["a", "b"]
    assert damage is not None or len(groups) == 3, "what is behind it is read, or named as lost"


def test_too_large_videos_are_never_in_memory() -> None:
    tar = make_tar([("a.mp4", bytes(40 << 20)), ("b.mp4", b"small")])
    tracemalloc.start()
    groups, damage = groups_of(tar, limit=LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert damage is None
    assert [(g.key, g.members[0].data, g.members[0].too_large) for g in groups] == [
        ("a", None, True),
        ("b", b"small", False),
    ]
    assert peak < 5 << 20


def test_video_of_exactly_the_limit_is_read() -> None:
    groups, _ = groups_of(make_tar([("a.mp4", b"12345"), ("b.mp4", b"123456")]), limit=5)
    assert [group.members[0].data for group in groups] == [b"12345", None]


def test_large_sidecars_are_passed_over() -> None:
    tar = make_tar([("a.wav", bytes(MAX_SIDECAR_BYTES + 1)), ("a.mp4", b"video")])
    [group], _ = groups_of(tar)
    assert [(m.extension, m.data) for m in group.members] == [("wav", None), ("mp4", b"video")]
    assert str(MAX_SIDECAR_BYTES) in str(group.members[0].problem)


def test_links_are_members_without_content() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.mp4")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        folder = tarfile.TarInfo("folder.mp4")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    groups, damage = groups_of(buffer.getvalue())
    assert damage is None
    assert [(g.key, g.members[0].data) for g in groups] == [("2", None), ("1", None)]
    assert all("links in a tar are not followed" in str(g.members[0].problem) for g in groups)


def test_neighbours_with_one_key_are_split_at_a_repeated_extension() -> None:
    tar = make_tar([("a.mp4", b"1"), ("a.txt", b"1"), ("a.mp4", b"2"), ("a.txt", b"2")])
    groups, _ = groups_of(tar)
    assert [[m.data for m in group.members] for group in groups] == [[b"1", b"1"], [b"2", b"2"]]


def test_names_that_are_not_utf8_do_not_break_what_follows() -> None:
    tar = bytearray(make_tar([("ab.mp4", b"video")], format=tarfile.GNU_FORMAT))
    header = bytearray(tar[:512])
    header[0:2] = b"\xff\xfe"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar[:512] = header
    [group], damage = groups_of(bytes(tar))
    assert damage is None
    assert group.key == "\\xff\\xfe"
    group.key.encode("utf-8")


def test_giant_name_is_refused_before_it_is_read() -> None:
    tar = bytearray(make_tar([("n" * 300 + ".mp4", b"video")], format=tarfile.GNU_FORMAT))
    header = tar[:512]
    assert header[156:157] == tarfile.GNUTYPE_LONGNAME
    header[124:136] = b"%011o\0" % (1 << 32)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar[:512] = header
    _, damage = groups_of(bytes(tar))
    assert damage is not None
    assert not damage.truncated


def test_memory_does_not_grow_with_the_members() -> None:
    tar = make_tar([(f"{n:06}.txt", b"x") for n in range(6000)])
    peaks = []
    for count in (1000, 5000):  # not the last one: its end frees all
        stream = read_groups(cast("BinaryIO", io.BytesIO(tar)), max_video_bytes=LIMIT)
        tracemalloc.start()
        for n, _ in enumerate(stream):
            if n == count - 1:
                break
        peaks.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_failing_store_is_not_damage() -> None:
    class Failing:
        def __init__(self) -> None:
            self._file = io.BytesIO(make_tar([*SAMPLES, ("d.mp4", bytes(100_000))]))

        def read(self, size: int) -> bytes:
            if self._file.tell() > 30_000:
                raise StoreError("the disk is gone")
            return self._file.read(size)

    stream = read_groups(cast("BinaryIO", Failing()), max_video_bytes=LIMIT)
    assert [next(stream).key for _ in range(2)] == ["a", "b"]
    with pytest.raises(StoreError, match="disk is gone"):
        next(stream)
