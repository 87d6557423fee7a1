"""Files by full URI, on a local disk and on S3."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.storage.files import canonical_uri, find_files, list_folder, open_file
from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server


def test_canonical_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = f"{tmp_path}/a.tar"
    assert canonical_uri("a.tar") == wanted
    assert canonical_uri(f"file://{wanted}") == wanted
    assert canonical_uri(f"{tmp_path}//x/../a.tar") == wanted


def test_find_files(tmp_path: Path) -> None:
    for name in ["a.tar", "b.tar", "sub/c.tar", "sub/d.mp4", "odd[1].tar"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")

    def names(pattern: str) -> list[str]:
        found = find_files(f"{tmp_path}/{pattern}")
        return [name.removeprefix(f"{tmp_path}/") for name in found]

    assert names("a.tar") == ["a.tar"]
    assert names("?.tar") == ["a.tar", "b.tar"]
    assert names("**/*.tar") == ["a.tar", "b.tar", "odd[1].tar", "sub/c.tar"]
    assert names("sub") == ["sub/c.tar", "sub/d.mp4"]
    assert names("odd[1].tar") == ["odd[1].tar"]
    assert names("*") == ["a.tar", "b.tar", "odd[1].tar"]
    assert names("nothing*") == []


@pytest.mark.s3
def test_find_files_on_s3(s3: S3Server, s3_store: Store) -> None:
    for name in ["a.tar", "sub/b.tar", "sub/c.mp4"]:
        s3_store.write(name, b"x")
    root = s3_store.uri
    find = lambda pattern: find_files(f"{root}/{pattern}", s3.storage_options)  # noqa: E731
    assert find("*.tar") == [f"{root}/a.tar"]
    assert find("**/*.tar") == [f"{root}/a.tar", f"{root}/sub/b.tar"]
    assert find("sub") == [f"{root}/sub/b.tar", f"{root}/sub/c.mp4"]
    assert list_folder(f"{root}/sub", s3.storage_options) == find("sub")
    assert find("nothing") == []


def test_unknown_protocol() -> None:
    with pytest.raises(ConfigError, match="nosuch://"):
        find_files("nosuch://bucket/key")


def test_open_file_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_file(f"{tmp_path}/nothing")
