"""URIs of allowed protocols only, and never a file system inside another."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.source import VideoSource
from pipeline.errors import ConfigError
from pipeline.sources.planning import plan_units
from pipeline.storage.files import open_filesystem, protocol_of, require_protocol
from tests.pipeline.sources.reading import read_all

CHAINS = [
    "zip://a.mp4::file:///x/b.zip",
    "zip::/x/b.zip",
    "simplecache::https://host/a.mp4",
    "s3://bucket/a.mp4::http://evil/b",
    "filecache::s3://bucket/a.mp4",
    "tar://x::simplecache::s3://bucket/b.tar",
    "file:///x/a.mp4::memory://b",
]
OTHERS = [
    "zip://a.mp4::/x/b.zip",
    "sftp://host/a.mp4",
    "memory://a.mp4",
    "github://o:r@main/a.mp4",
    "nosuch://a.mp4",
]


@pytest.mark.parametrize("uri", CHAINS)
def test_a_chain_is_refused(uri: str, tmp_path: Path) -> None:
    says = r"a chain of file systems \(`::`\), which is not supported"
    with pytest.raises(ConfigError, match=says):
        open_filesystem(uri, None)
    with pytest.raises(ConfigError, match=rf"^source\.uri: .*{says}"):
        plan_units(VideoSource(uri=[uri]))
    (tmp_path / "good.mp4").write_bytes(b"video")
    (tmp_path / "l.csv").write_text(f"video\n{uri}\ngood.mp4\n")
    bad, good = read_all(str(tmp_path / "l.csv"))
    assert (bad.reason, good.video) == ("bad_row", f"{tmp_path}/good.mp4")
    assert "a chain of file systems" in bad.detail


@pytest.mark.parametrize("uri", OTHERS)
def test_other_protocols_are_refused(uri: str, tmp_path: Path) -> None:
    protocol = uri.partition(":")[0]
    says = rf"the protocol {protocol} is not allowed; source\.protocols allows file, http,"
    with pytest.raises(ConfigError, match=rf"^source\.uri: .*{says}"):
        plan_units(VideoSource(uri=[uri]))
    (tmp_path / "l.csv").write_text(f"video\n{uri}\n")
    [bad] = read_all(str(tmp_path / "l.csv"))
    assert bad.reason == "bad_row"
    assert "source.protocols allows file, http," in bad.detail
    source = VideoSource(uri=[f"{tmp_path}/l.csv"], lists={"root": uri})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"^source\.lists\.root: .*{says}"):
        plan_units(source)


def test_the_setting(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    (tmp_path / "l.csv").write_text(f"video\na.mp4\nfile://{tmp_path}/a.mp4\n{tmp_path}/a.mp4\n")
    assert [o.video for o in read_all(str(tmp_path / "l.csv"))] == [f"{tmp_path}/a.mp4"] * 3
    with pytest.raises(ConfigError, match=r"the protocol file is not allowed; .* allows s3"):
        read_all(str(tmp_path), protocols=["s3"])


@pytest.mark.parametrize(
    "name", ["a::b", "x::y.mp4", "::", "a.mp4::", "./zip::a.mp4", "sub/s3::a.mp4", "q://a.mp4"]
)
def test_a_local_name(name: str, tmp_path: Path) -> None:
    """`::` is part of a name unless a URI follows, or the name of a protocol precedes it."""
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    for folder in (tmp_path / "v", tmp_path):
        path = folder / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"video")
        found = read_all(str(folder))
        assert str(path) in [sample.video for sample in found]
    if "://" not in name:
        (tmp_path / "l.csv").write_text(f"video\n{name}.mp4\n{tmp_path}/{name}.mp4\n")
        found = read_all(str(tmp_path / "l.csv"))
        assert [sample.video for sample in found] == [str(tmp_path / f"{name}.mp4")] * 2


plain = st.text(st.characters(codec="utf-8", exclude_characters=":"), max_size=20)
words = st.from_regex(r"[A-Za-z][A-Za-z0-9+.-]{0,8}", fullmatch=True)


@given(protocol=words, rest=plain, allowed=st.lists(words, max_size=4))
def test_a_uri_has_the_protocol_before_its_slashes(
    protocol: str, rest: str, allowed: list[str]
) -> None:
    uri = f"{protocol}://{rest}"
    assert protocol_of(uri) == protocol.lower()
    require_protocol(uri, [*allowed, protocol.lower()])
    others = [one for one in allowed if one != protocol.lower()]
    with pytest.raises(ConfigError, match="is not allowed"):
        require_protocol(uri, others)


@given(name=plain)
def test_a_path_is_a_file(name: str) -> None:
    assert protocol_of(f"/{name}") == protocol_of(name) == "file"


@given(before=plain, protocol=words, rest=plain)
def test_a_uri_behind_two_colons_is_a_chain(before: str, protocol: str, rest: str) -> None:
    settings: list[Any] = [["file"], ["file", protocol.lower()]]
    for allowed in settings:
        with pytest.raises(ConfigError, match="a chain of file systems"):
            require_protocol(f"{before}::{protocol}://{rest}", allowed)
