"""What below a folder is a file, and what is named as left out."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.storage.files import (
    FileRefused,
    file_size,
    find_files,
    list_folder,
    open_file,
    read_file,
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder with each kind of entry."""
    folder = tmp_path / "f"
    (folder / "sub/deep").mkdir(parents=True)
    for name in ("a.mp4", "sub/b.mp4", "sub/deep/c.mp4", "sub/deep/c.txt"):
        (folder / name).write_bytes(b"video")
    (folder / "link.mp4").symlink_to("a.mp4")
    (folder / "away.mp4").symlink_to("/nothing/there")
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "null.mp4").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "sub/s.mp4"))
        yield folder


FILES = ["a.mp4", "away.mp4", "link.mp4", "sub/b.mp4", "sub/deep/c.mp4", "sub/deep/c.txt"]


def test_a_folder(folder: Path) -> None:
    skipped: dict[str, str] = {}
    found = find_files(str(folder), skipped=skipped)
    assert found == [f"{folder}/{name}" for name in FILES]
    assert skipped == {
        f"{folder}/pipe.mp4": "a named pipe",
        f"{folder}/null.mp4": "a link to a device",
        f"{folder}/round": "a link to a folder",
        f"{folder}/sub/s.mp4": "a socket",
    }
    assert list_folder(str(folder)) == [f"{folder}/{name}" for name in FILES[:3]]
    assert list_folder(f"{folder}/none") == []


@pytest.mark.parametrize(
    ("pattern", "names", "odd"),
    [
        ("*.mp4", FILES[:3], ["null.mp4", "pipe.mp4", "round"]),
        ("*/*.mp4", ["sub/b.mp4"], ["round", "sub/s.mp4"]),
        ("**/*.mp4", FILES[:5], ["null.mp4", "pipe.mp4", "round", "sub/s.mp4"]),
        ("sub/*", ["sub/b.mp4"], ["sub/s.mp4"]),
        ("s?b/d*/c.[tm]*", ["sub/deep/c.mp4", "sub/deep/c.txt"], ["round"]),
        ("x*/y", [], ["round"]),
        ("nothing/*", [], []),
    ],
)
def test_a_glob(folder: Path, pattern: str, names: list[str], odd: list[str]) -> None:
    skipped: dict[str, str] = {}
    found = find_files(f"{folder}/{pattern}", skipped=skipped)
    assert found == [f"{folder}/{name}" for name in names]
    assert sorted(skipped) == [f"{folder}/{name}" for name in odd]


@pytest.mark.parametrize("name", ["pipe.mp4", "null.mp4", "sub/s.mp4"])
def test_what_is_no_file_is_never_opened(folder: Path, name: str) -> None:
    """A reader of the pipe would wait without end."""
    uri = f"{folder}/{name}"
    with pytest.raises(ConfigError, match="is a pipe, a socket or a device"):
        find_files(uri)
    for function in (file_size, open_file, read_file):
        with pytest.raises(FileRefused, match=r"is a (named pipe|device|socket), not a file"):
            function(uri)


def test_a_file_of_proc_is_empty(tmp_path: Path) -> None:
    """Such files say that they have no bytes; some end only when their reader does."""
    (tmp_path / "a.mp4").symlink_to("/proc/self/pagemap")
    assert file_size(f"{tmp_path}/a.mp4") == 0
    assert read_file(f"{tmp_path}/a.mp4") == b""


def test_a_folder_that_fails_while_it_is_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files would be missing from the plan without a word."""
    scan = os.scandir

    def failing(path: str) -> object:
        if path.endswith("deep"):
            raise error
        return scan(path)

    monkeypatch.setattr(os, "scandir", failing)
    for number in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENOENT):
        error = OSError(number, os.strerror(number))
        with pytest.raises(StoreError):
            find_files(str(folder))
        with pytest.raises(StoreError):
            find_files(f"{folder}/**/*.mp4")
    error = PermissionError(errno.EACCES, "denied")
    skipped: dict[str, str] = {}
    assert len(find_files(f"{folder}/**", skipped=skipped)) == 4
    assert skipped[f"{folder}/sub/deep"] == "a folder that may not be listed"
